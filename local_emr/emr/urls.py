"""The URLs of EMR. moto imports this module by its name, beside that of the backend."""

from moto.emr.urls import url_bases  # noqa: F401

from local_emr.emr.responses import LocalEmrResponse

url_paths = {"{0}/$": LocalEmrResponse.dispatch}
