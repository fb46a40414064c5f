"""Each patch to moto is still needed. When one of these fails, moto has mended it: remove the patch and its test."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

MOTO = "import moto.backends, moto.moto_server.werkzeug_app, moto.sqs.models, moto.core.utils"


def plain_moto(code: str) -> str:
    """What a fresh interpreter with unpatched moto prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_moto_lists_its_own_folder_at_each_request():
    code = """
import os, moto.backends as backends
listed = []
original = os.listdir
os.listdir = lambda *given: listed.append(given) or original(*given)
scanned = []
original_scan = os.scandir
os.scandir = lambda *given: scanned.append(given) or original_scan(*given)
from pathlib import Path
list(backends.list_of_moto_modules()); first = len(listed) + len(scanned)
list(backends.list_of_moto_modules()); second = len(listed) + len(scanned)
print(first > 0 and second > first)
"""
    assert plain_moto(code) == "True"


def test_moto_recounts_the_queue_for_each_received_message():
    code = """
from moto.sqs.models import SQSBackend, Queue
backend = SQSBackend("us-east-1", "123456789012")
backend.create_queue("q")
for number in range(5):
    backend.send_message("q", str(number))
counted = []
original = Queue.attributes.fget
Queue.attributes = property(lambda self: counted.append(1) or original(self))
backend.receive_message("q", 5, 0, 30, None)
print(len(counted) >= 5)
"""
    assert plain_moto(code) == "True"


def test_moto_converts_the_same_names_again_and_again():
    assert plain_moto(f"{MOTO}; print(hasattr(moto.core.utils.camelcase_to_underscores, 'cache_info'))") == "False"


def test_moto_reads_a_whole_object_for_a_range():
    """s3_front.S3Front answers ranges itself."""
    code = """
import boto3
from moto import mock_aws
from moto.s3.models import FakeKey
with mock_aws():
    s3 = boto3.client("s3", region_name="us-east-1")
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="k", Body=b"x" * 1000)
    read = []
    original = FakeKey.value.fget
    FakeKey.value = property(lambda self: read.append(1) or original(self), FakeKey.value.fset)
    s3.get_object(Bucket="bucket", Key="k", Range="bytes=0-9")["Body"].read()
    print(len(read) > 0)
"""
    assert plain_moto(code) == "True"


def test_moto_takes_an_upload_without_asking_its_policy():
    """s3_front.S3Front judges POST policies."""
    code = """
import boto3, requests
from moto import mock_aws
with mock_aws():
    s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    s3.create_bucket(Bucket="bucket")
    form = s3.generate_presigned_post("bucket", "wanted", Conditions=[["content-length-range", 1, 2]])
    form["fields"]["key"] = "other"
    answer = requests.post(form["url"], data=form["fields"], files={"file": b"far too long"})
    print(answer.status_code)
"""
    assert plain_moto(code) in ("200", "204")


def test_the_patches_change_no_answer():
    code = """
from serverless.local import moto_patches
moto_patches.apply(); moto_patches.apply()
import moto.backends, moto.core.utils
names = list(moto.backends.list_of_moto_modules())
assert {"s3", "sqs", "ses", "dynamodb"} <= set(names), names
assert list(moto.backends.list_of_moto_modules()) == names
assert moto.core.utils.camelcase_to_underscores("QueueUrl") == "queue_url"
from moto.sqs.models import SQSBackend
backend = SQSBackend("us-east-1", "123456789012")
backend.create_queue("q")
backend.queues["q"].message_retention_period = 60
backend.send_message("q", "hello")
backend.queues["q"]._messages[0].sent_timestamp -= 61000
print(len(backend.receive_message("q", 5, 0, 30, None)))
"""
    assert plain_moto(code) == "0"


def test_moto_needs_docker_to_run_a_function():
    """serverless.local.functions runs them."""
    code = """
import inspect
from moto.awslambda.models import LambdaFunction
print("import docker" in inspect.getsource(LambdaFunction._invoke_lambda))
"""
    assert plain_moto(code) == "True"


def test_moto_does_not_know_a_function_by_a_name_with_its_type():
    code = """
from moto.awslambda.models import LambdaStorage
storage = LambdaStorage("us-east-1", "123456789012")
asked = []
storage._functions = type("Known", (dict,), {"get": lambda self, name, *rest: asked.append(name),
                                             "__contains__": lambda self, name: asked.append(name)})()
try:
    storage.get_function_by_name_with_qualifier("function:web")
except Exception:
    pass
print(asked and "web" not in asked)
"""
    assert plain_moto(code) == "True"


def test_moto_has_no_list_of_function_urls():
    code = """
from moto.awslambda.urls import url_paths
print(any(path.endswith("/urls/?$") or path.endswith("/urls$") for path in url_paths))
"""
    assert plain_moto(code) == "False"


def test_moto_leaves_apis_behind_when_their_stack_is_deleted():
    code = """
from moto.apigateway.models import RestAPI
print(any("delete_from_cloudformation_json" in vars(each) for each in (RestAPI,)) or hasattr(RestAPI, "delete"))
"""
    assert plain_moto(code) == "False"
