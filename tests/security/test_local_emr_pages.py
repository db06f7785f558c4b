"""A web page in the same browser as the local AWS: what it sends is refused, and does nothing.

The first half sends what browsers send; the second half has a browser do it.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.local_aws import LocalAws, client

EVIL = "http://evil.example"
SIGNED = "AWS4-HMAC-SHA256 Credential=x/20000101/eu-west-3/{}/aws4_request, SignedHeaders=host, Signature=0"
CLUSTER = json.dumps({"Name": "evil", "Instances": {"MasterInstanceType": "m5.xlarge"}})
RUN_CLUSTER = {"X-Amz-Target": "ElasticMapReduce.RunJobFlow"}


def ask(
    aws: LocalAws, method: str, path: str, headers: dict[str, str], body: str = ""
) -> tuple[int, str, Any]:
    """Status, body and headers of one request, whose headers are these alone."""
    connection = http.client.HTTPConnection(urlsplit(aws.endpoint).netloc, timeout=300)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": urlsplit(aws.endpoint).netloc, **headers}.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode())
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace"), answer.headers
    finally:
        connection.close()


@pytest.fixture
def untouched(aws: LocalAws) -> Iterator[None]:
    """After the test the bucket and its object stand, and there is no cluster and no user."""
    aws.put("mine.txt", "mine")
    yield
    assert aws.get("mine.txt") == b"mine", "moto was reset, or the object was replaced"
    assert aws.emr.list_clusters()["Clusters"] == []
    assert client(aws.endpoint, "iam").list_users()["Users"] == []


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("method", "path", "headers", "body"),
    [
        # A form of another page: no preflight, and no Origin from browsers that leave it out.
        ("POST", "/", {"Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}, CLUSTER),
        ("POST", "/", {"Sec-Fetch-Site": "same-site", "Content-Type": "text/plain"}, CLUSTER),
        (
            "POST",
            "/",
            {"Sec-Fetch-Site": "cross-site", "Content-Type": "application/x-www-form-urlencoded"},
            "Action=CreateUser&UserName=evil&Version=2010-05-08",
        ),
        ("POST", "/", {"Origin": EVIL, "Content-Type": "multipart/form-data; boundary=x"}, "--x--"),
        # A sandboxed frame and a file:// page have no origin, and say so.
        ("POST", "/", {"Origin": "null", **RUN_CLUSTER}, CLUSTER),
        ("POST", "/moto-api/reset", {"Origin": "null"}, ""),
        # moto's own controls.
        ("POST", "/moto-api/reset", {"Origin": EVIL}, ""),
        ("POST", "/moto-api/reset", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, ""),
        ("GET", "/moto-api/reset", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, ""),
        ("POST", "/moto-api/../moto-api/reset", {"Origin": EVIL}, ""),
        ("POST", "/moto-api/recorder/reset-recording", {"Origin": EVIL}, ""),
        # A name of the page's own that points here now (DNS rebinding): no other header gives it away.
        ("POST", "/moto-api/reset", {"Host": "evil.example"}, ""),
        ("POST", "/", {"Host": "evil.example:5000", **RUN_CLUSTER}, CLUSTER),
        ("GET", "/test-bucket/mine.txt", {"Host": "evil.example"}, ""),
        ("GET", "/test-bucket/mine.txt", {"Host": "localhost.evil.example"}, ""),
        ("GET", "/test-bucket/mine.txt", {"Host": "amazonaws.com.evil.example"}, ""),
        ("GET", "/test-bucket/mine.txt", {"Host": ""}, ""),
        # A page of this origin's host on another port.
        ("PUT", "/test-bucket/mine.txt", {"Origin": "http://127.0.0.1:1"}, "theirs"),
        ("DELETE", "/test-bucket/mine.txt", {"Sec-Fetch-Site": "same-site"}, ""),
    ],
)
def test_what_a_page_may_send_is_refused_and_does_nothing(
    aws: LocalAws, method: str, path: str, headers: dict[str, str], body: str
) -> None:
    signed = {"Authorization": SIGNED.format("elasticmapreduce"), **headers}
    status, text, answered = ask(aws, method, path, signed, body)
    assert status == 403
    assert "Refused by local_emr" in text
    assert "Access-Control-Allow-Origin" not in answered


def test_a_preflight_is_refused_so_that_what_it_asks_for_is_never_sent(aws: LocalAws) -> None:
    asked = {"Origin": EVIL, "Access-Control-Request-Method": "PUT"}
    status, _, answered = ask(aws, "OPTIONS", "/test-bucket/mine.txt", asked)
    assert status == 403
    assert not [name for name in answered if name.lower().startswith("access-control-")]


def test_a_bucket_s_own_cors_rules_open_nothing(aws: LocalAws) -> None:
    rule = {"AllowedOrigins": ["*"], "AllowedMethods": ["GET", "PUT"], "AllowedHeaders": ["*"]}
    aws.s3.put_bucket_cors(Bucket=aws.bucket, CORSConfiguration={"CORSRules": [rule]})
    aws.put("mine.txt", "mine")
    status, text, answered = ask(aws, "GET", "/test-bucket/mine.txt", {"Origin": EVIL})
    assert (status, "mine" in text) == (403, False)
    assert "Access-Control-Allow-Origin" not in answered


# In a browser. The page tells what came of each attempt in its title.

ATTEMPTS = """
const tried = {};
const attempt = async (name, path, how = {}) => {
  try {
    const answer = await fetch(AWS + path, how);
    tried[name] = answer.type === "opaque" ? "opaque" : answer.status;
  } catch (error) { tried[name] = "refused"; }
};
const sign = (service, more = {}) => ({ headers: { Authorization: SIGNED.replace("{}", service), ...more } });
const plain = { method: "POST", mode: "no-cors" };
const user = "/?Action=CreateUser&UserName=evil&Version=2010-05-08";
const runs = { "X-Amz-Target": "ElasticMapReduce.RunJobFlow" };
const say = () => { document.title = JSON.stringify(tried); };
(async () => {
  await attempt("list", "/test-bucket", sign("s3"));
  await attempt("read", "/test-bucket/mine.txt", sign("s3"));
  await attempt("write", "/test-bucket/mine.txt", { ...sign("s3"), method: "PUT", body: "theirs" });
  await attempt("data", "/moto-api/data.json");
  await attempt("user", user, sign("iam"));
  await attempt("cluster", "/", { ...sign("elasticmapreduce", runs), method: "POST", body: CLUSTER });
  await attempt("plain user", user, { mode: "no-cors" });
  await attempt("plain cluster", "/", { ...plain, body: CLUSTER });
  await attempt("plain reset", "/moto-api/reset", plain);
  navigator.sendBeacon(AWS + "/moto-api/reset", "");
  const frame = document.createElement("iframe"), form = document.createElement("form");
  frame.name = "sink";
  Object.assign(form, { method: "post", action: AWS + "/moto-api/reset", target: "sink" });
  document.body.append(frame, form);
  frame.onload = say;
  form.submit();
  if (window.origin === "null") say(); // a sandbox sends no form: there is nothing to wait for
})();
"""


def hostile_page(aws: LocalAws) -> bytes:
    known = f"const AWS = {json.dumps(aws.endpoint)}, SIGNED = {json.dumps(SIGNED)};"
    script = f"{known} const CLUSTER = {json.dumps(CLUSTER)};{ATTEMPTS}"
    return f"<!doctype html><title>trying</title><body><script>{script}</script>".encode()


def tried(page: Any) -> dict[str, Any]:
    page.wait_for_function("document.title.startsWith('{')", timeout=120_000)
    return json.loads(page.title())


@pytest.fixture
def elsewhere(aws: LocalAws) -> Iterator[str]:
    """Address of a server that has nothing to do with the local AWS, with a hostile page."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = hostile_page(aws)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """No log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()
    server.server_close()


def refused(found: dict[str, Any]) -> bool:
    """Whether each attempt was; of a plain one a page cannot see the answer, so what it did is looked at."""
    return len(found) == 9 and all(
        answer == "refused" or (answer == "opaque" and name.startswith("plain"))
        for name, answer in found.items()
    )


@pytest.mark.usefixtures("untouched")
def test_a_page_of_another_site_reads_nothing_and_changes_nothing(browser: Any, elsewhere: str) -> None:
    page = browser.new_page()
    page.goto(elsewhere)
    found = tried(page)
    page.close()
    assert refused(found), found


@pytest.mark.usefixtures("untouched")
def test_an_object_that_is_a_page_is_shown_and_can_ask_for_nothing(aws: LocalAws, browser: Any) -> None:
    """Its address is the local AWS's own: without the sandbox its script would read all buckets."""
    aws.s3.put_object(Bucket=aws.bucket, Key="page.html", Body=hostile_page(aws), ContentType="text/html")
    page = browser.new_page()
    page.goto(f"{aws.endpoint}/{aws.bucket}/page.html")
    found = tried(page)
    assert page.evaluate("window.origin") == "null"
    page.close()
    assert refused(found), found


def test_an_object_is_what_its_content_type_says_it_is(aws: LocalAws) -> None:
    aws.s3.put_object(Bucket=aws.bucket, Key="photo", Body=b"<script>1</script>", ContentType="image/jpeg")
    headers = {"Authorization": SIGNED.format("s3")}
    status, _, answered = ask(aws, "GET", "/test-bucket/photo", headers)
    assert status == 200
    assert answered["X-Content-Type-Options"] == "nosniff"
    assert answered["Content-Security-Policy"] == "sandbox allow-scripts"
