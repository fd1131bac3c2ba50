"""Downloads by hub id, from a stand-in for the hub on 127.0.0.1: no test here leaves the machine."""

import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from minexaone import files
from minexaone.model import Config, Exaone4

REPO = "lab/tiny"
CHUNK = 10 * 2**20  # what the library reads before it writes; this much may be lost, and sent again, when it is cut
BLOB = os.urandom(2**20) * 25  # stands for weights in the tests that never open them
FILES = {
    "config.json": b'{"revision": "main"}', "tokenizer.json": b"{}", "chat_template.jinja": b"{{ messages }}",
    "merges.txt": b"a b\n", "model.safetensors": b"weights", "model.safetensors.index.json": b'{"weight_map": {}}',
    "pytorch_model.bin": b"pickle", "model.pt": b"pickle", "modeling.py": b"code", "README.md": b"text",
    "onnx/model.safetensors": b"other weights", "onnx/config.json": b"{}",
}
BRANCHES = {"main": "a" * 40, "v1": "b" * 40}

# The client is a process of its own, because the library reads its environment once, when it is imported; and it loads
# files.py by itself, because importing torch would make each test seconds slower.
CLIENT = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
try:
    print(json.dumps(["folder", str(files.resolve(*json.loads(sys.argv[2])))]))
except files.CheckpointError as error:
    print(json.dumps(["error", str(error)]))
"""


class Hub(ThreadingHTTPServer):
    """The few addresses of the hub that a download asks for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.listed = dict(FILES), [], None
        self.fault = lambda request: False  # called first; True if it has answered
        self.sent = 0  # bytes of model.safetensors
        self.url = f"http://127.0.0.1:{self.server_port}"

    def downloaded(self):
        """Names of the files whose content was asked for."""
        return {path.split("/", 5)[5] for method, path in self.requests if method == "GET" and "/resolve/" in path}

    def handle_error(self, request, client_address):
        pass  # the client may hang up


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server
        path = self.path.split("?")[0]
        hub.requests.append((self.command, path))
        if hub.fault(self):
            return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            if "/".join(parts[2:4]) != REPO:
                self.answer(404, X_Error_Code="RepoNotFound")
                return
            kind, revision = parts[4:6] if len(parts) > 4 else ("revision", "main")
            commit = BRANCHES.get(revision, revision if revision in BRANCHES.values() else None)
            if commit is None:
                self.answer(404, X_Error_Code="RevisionNotFound")
                return
            names = hub.listed or hub.files
            value = {"id": REPO, "sha": commit, "siblings": [{"rfilename": name} for name in names]}
            if kind == "tree":
                value = [{"type": "file", "path": name, "oid": "0" * 40, "size": len(hub.files.get(name, b""))}
                         for name in names]
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json")
        elif len(parts) > 4 and parts[2] == "resolve":
            name = "/".join(parts[4:])
            body = hub.files.get(name)
            if body is None:
                self.answer(404, X_Error_Code="EntryNotFound")
                return
            if name == "config.json" and parts[3] == BRANCHES["v1"]:
                body = b'{"revision": "v1"}'
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": parts[3]}
            start = int((self.headers["Range"] or "bytes=0-")[6:].split("-")[0])
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            if name == "model.safetensors" and self.command == "GET":
                hub.sent += len(body) - start
            self.answer(206 if start else 200, body[start:], **headers)
        else:
            self.answer(404)


@pytest.fixture
def hub():
    server = Hub()
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def nowhere():
    """An address that refuses connections: taken, but nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def run(tmp_path):
    """Run Python in a process that knows no hub but `url`, and return its last line of output."""
    def run(url, code, *args):
        env = {key: value for key, value in os.environ.items()
               if not key.startswith("HF_") and not key.lower().endswith("_proxy")}
        env |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
                "HF_HUB_DISABLE_TELEMETRY": "1"}
        done = subprocess.run([sys.executable, "-c", code, *args], env=env, cwd=Path(files.__file__).parents[1],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]
    return run


@pytest.fixture
def resolve(run):
    def resolve(url, source=REPO, revision=None, weights=True):
        kind, value = json.loads(run(url, CLIENT, files.__file__, json.dumps([source, revision, weights])))
        if kind == "folder":
            return Path(value)
        assert "\n" not in value and source in value
        raise files.CheckpointError(value)
    return resolve


def test_download_fetches_data_and_neither_pickles_nor_code_nor_subfolders(hub, resolve, nowhere):
    folder = resolve(hub.url)
    wanted = {"config.json", "tokenizer.json", "chat_template.jinja", "merges.txt", "model.safetensors",
              "model.safetensors.index.json"}
    assert {path.name for path in folder.iterdir()} == wanted == hub.downloaded()
    assert not [path for _, path in hub.requests if path.endswith((".bin", ".pt", ".py"))]
    assert all((folder / name).read_bytes() == FILES[name] for name in wanted)
    # Again, with nothing to fetch; and again without a network.
    hub.requests.clear()
    assert resolve(hub.url) == folder and not hub.downloaded()
    hub.fault = lambda request: request.answer(503) or True
    assert resolve(hub.url) == folder
    assert resolve(nowhere) == folder


def test_revision_and_small_files_only(hub, resolve):
    small = resolve(hub.url, revision="v1", weights=False)
    assert json.loads((small / "config.json").read_text()) == {"revision": "v1"}
    assert not any(name.endswith(".safetensors") for name in hub.downloaded())
    by_commit = resolve(hub.url, revision=BRANCHES["v1"])
    assert by_commit == small and (small / "model.safetensors").exists()
    assert json.loads((resolve(hub.url) / "config.json").read_text()) == {"revision": "main"}


def test_weights_that_were_never_fetched_are_missed_offline(hub, resolve, nowhere):
    resolve(hub.url, weights=False)
    with pytest.raises(files.CheckpointError, match="could not be downloaded.*again.*by hand"):
        resolve(nowhere)


def hang_up_midway(request, reset):
    """Answer the first request for the weights with all of the length and nine tenths of the bytes."""
    hub = request.server
    if hub.sent or not (request.command == "GET" and request.path.endswith("/model.safetensors")):
        return False
    request.send_response(200)
    request.send_header("Content-Length", str(len(BLOB)))
    request.end_headers()
    hub.sent = len(BLOB) * 9 // 10
    request.wfile.write(BLOB[:hub.sent])
    request.close_connection = True
    if reset:  # close at once and say so, instead of saying goodbye
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(request.connection.detach())
    return True


def test_a_cut_download_goes_on_where_it_stopped(hub, resolve):
    hub.files["model.safetensors"] = BLOB
    hub.fault = lambda request: hang_up_midway(request, reset=False)
    assert (resolve(hub.url) / "model.safetensors").read_bytes() == BLOB
    assert len(BLOB) <= hub.sent <= len(BLOB) + CHUNK


def test_a_reset_connection_is_one_clear_error_and_complete_files_are_kept(hub, resolve):
    hub.files["model.safetensors"] = BLOB
    hub.fault = lambda request: hang_up_midway(request, reset=True)
    try:  # a library that goes on by itself is as good
        resolve(hub.url)
    except files.CheckpointError as error:
        assert "could not be downloaded" in str(error) and "run the command again" in str(error)
    hub.requests.clear()
    assert (resolve(hub.url) / "model.safetensors").read_bytes() == BLOB
    assert hub.downloaded() <= {"model.safetensors"}


def test_a_damaged_file_in_the_cache_is_deleted_by_name_and_fetched_again(hub, resolve):
    file = resolve(hub.url) / "config.json"
    blob = file.resolve()
    blob.write_bytes(b'{"revision": ')
    assert resolve(hub.url) / "config.json" == file and file.stat().st_size == 13  # the cache does not see it
    with pytest.raises(files.CheckpointError) as caught:
        files.read_json(file)
    assert "not readable JSON" in str(caught.value) and f"delete {blob} and run again" in str(caught.value)
    blob.unlink()
    if file.is_symlink():
        with pytest.raises(files.CheckpointError, match="is a link to .*, which is missing: download it again"):
            files.read_json(file)
    resolve(hub.url)
    assert files.read_json(file) == {"revision": "main"}


def test_damaged_weights_in_the_cache_are_named(hub, resolve):
    folder = resolve(hub.url)
    (folder / "model.safetensors").resolve().write_bytes(b"damaged")
    with pytest.raises(files.CheckpointError, match=r"cut short or no safetensors.*: delete \S+blobs\S+ and run again"):
        files.weight_files(folder, {})


def test_a_repository_of_gguf_files_is_named_for_what_it_is(hub, resolve, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "REPO", "lab/tiny-GGUF")
    hub.files = {"README.md": b"text", "tiny-Q4_K_M.gguf": b"GGUF"}
    folder = resolve(hub.url, "lab/tiny-GGUF")
    with pytest.raises(files.CheckpointError, match="config.json is missing: a repository of GGUF files: download one"):
        files.read_json(folder / "config.json")
    assert not hub.downloaded()


def answer(status, only="", **headers):
    return lambda request: only in request.path and (request.answer(status, **headers) or True)


BY_HAND = ["by hand", "safetensors", "folder"]
FAILURES = {  # id: (the server's fault, arguments of resolve, what the message must say)
    "unknown id": (None, ["lab/typo"], ["no lab/typo on the hub", "spelling", "hf auth login", *BY_HAND]),
    "unknown revision": (None, [REPO, "v9"], ["no revision 'v9'", "check the branch, tag or commit"]),
    "gated": (answer(403, "/resolve/", X_Error_Code="GatedRepo"), [], ["terms", "accepted", "hf auth login", *BY_HAND]),
    "gated, listing too": (answer(401, X_Error_Code="GatedRepo"), [], ["terms", "accepted", "hf auth login", *BY_HAND]),
    "server error": (answer(500), [], ["could not be downloaded", "500", "again", *BY_HAND]),
    "server error on the weights": (lambda request: request.command == "GET" and answer(500, "model.safe")(request), [],
                                    ["could not be downloaded", "500", "again", *BY_HAND]),
    "login page of a hotel": (lambda request: request.answer(200, b"<html>") or True, [], ["could not be", *BY_HAND]),
    "no valid id": (None, ["lab/a--b"], ["lab/a--b", *BY_HAND]),
}


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_is_one_clear_error(name, hub, resolve):
    fault, args, words = FAILURES[name]
    hub.fault = fault or hub.fault
    with pytest.raises(files.CheckpointError) as caught:
        resolve(hub.url, *args)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert len(hub.requests) < 50  # it gives up


def test_no_network(resolve, nowhere):
    with pytest.raises(files.CheckpointError, match="could not be downloaded.*refused.*check the network.*by hand"):
        resolve(nowhere)


def test_a_name_that_leads_out_of_the_folder_is_not_written(hub, resolve, tmp_path):
    hub.listed = ["config.json", "../../../../escaped.json", "..\\escaped.json"]
    hub.files |= {"../../../../escaped.json": b"{}", "..\\escaped.json": b"{}"}
    try:
        folder = resolve(hub.url).resolve()
    except files.CheckpointError:
        folder = tmp_path / "hf"
    assert all(folder in path.resolve().parents or (tmp_path / "hf") in path.resolve().parents
               for path in tmp_path.rglob("*escaped*"))


def test_a_model_by_its_hub_id(hub, run, tmp_path):
    """The whole way: id, revision, download, load, logits."""
    torch.manual_seed(0)
    Exaone4(Config(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                   num_key_value_heads=1, head_dim=8, layer_types=["full_attention"], eos_token_id=2)
            ).save_pretrained(tmp_path / "model")
    hub.files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    hub.files["pytorch_model.bin"] = b"pickle"
    options = {"max_new_tokens": 8, "stop_ids": []}
    code = ("from minexaone import Exaone4; "
            f"print(Exaone4.from_pretrained({REPO!r}, device='cpu').generate([5, 6, 7], **{options}))")
    expected = Exaone4.from_pretrained(tmp_path / "model", device="cpu").generate([5, 6, 7], **options)
    assert json.loads(run(hub.url, code)) == expected
    assert hub.downloaded() == {"config.json", "generation_config.json", "model.safetensors"}
