"""Where moto finds our EMR; the names are moto's."""

from moto.emr.urls import url_bases  # noqa: F401

from local_emr.emr.responses import LocalEmrResponse

url_paths = {"{0}/$": LocalEmrResponse.dispatch}
