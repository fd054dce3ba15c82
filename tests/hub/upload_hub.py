# SPDX-License-Identifier: Apache-2.0
"""The fake Hub with the requests of an upload: repositories, branches, checks of cards, LFS objects, commits.

    with UploadHub() as hub:
        HfApi(endpoint=hub.url, token=TOKEN).upload_folder(...)

The client must not use Xet, whose storage is another service (`HF_HUB_DISABLE_XET=1`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import yaml

from .fake_hub import LARGE, Blob, FakeHub, Refusal, Repo, _Handler


TOKEN = "hf_of_the_tests"
GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"  # what the Hub puts into a new repository
LICENCES = ("apache-2.0", "cc-by-nc-4.0", "mit", "other")


class UploadHub(FakeHub):
    """A `FakeHub` that takes uploads, with `TOKEN`.

    Attributes:
        space_for: how many more LFS objects are taken before the storage refuses; None for any number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.space_for: int | None = None
        self._server.RequestHandlerClass = type("UploadHandler", (_UploadHandler,), {"hub": self})

    def files(self, repo_id: str, revision: str = "main") -> dict[str, str]:
        """Path -> SHA-256 of what a branch holds."""
        repo = self.repos[repo_id]
        return {path: blob.sha256 for path, blob in repo.commits[repo.branches[revision]].items()}

    def count(self, start: str) -> int:
        """How many requests so far begin with `start`, such as "PUT /lfs/"."""
        return sum(request.startswith(start) for request in self.requests)


class _UploadHandler(_Handler):
    hub: UploadHub
    routes = [
        *_Handler.routes,
        ("POST", "/api/repos/create", "create_repo"),
        ("POST", "/api/validate-yaml", "validate_card"),
        ("POST", rf"/api/models/{_Handler.repo_id}/branch/(?P<branch>[^/]+)", "create_branch"),
        ("POST", rf"/api/models/{_Handler.repo_id}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", rf"/api/models/{_Handler.repo_id}/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", rf"/{_Handler.repo_id}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ]

    def create_repo(self) -> None:
        given = self.given()
        repo_id = f"{given['organization']}/{given['name']}"
        answer = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id, "id": "0"}
        with self.hub.lock:
            is_new = repo_id not in self.hub.repos
            if is_new:
                self.hub.repos[repo_id] = repo = Repo()
                repo.commit("main", {".gitattributes": Blob(GITATTRIBUTES)})
        if not is_new:  # the client reads the address off the refusal too
            return self.send_json({**answer, "error": "You already created this model repo"}, 409)
        self.send_json(answer)

    def validate_card(self) -> None:
        """The head of a README.md, by the rules that the Hub's documentation states."""
        errors = []
        content = json.loads(self.body)["content"]
        try:
            head = yaml.safe_load(content.split("---\n")[1]) if content.startswith("---\n") else {}
        except yaml.YAMLError as error:
            head, errors = {}, [f"not YAML: {error}"]
        if "license" in head and head["license"] not in LICENCES:
            errors.append(f'"license" must be one of {", ".join(LICENCES)}')
        if not isinstance(head.get("base_model", ""), (str, list)):
            errors.append('"base_model" must be a model id or a list of them')
        if not all(isinstance(example, dict) for example in head.get("widget", [])):
            errors.append('"widget" must be a list of examples')
        for model in head.get("model-index", []):
            for result in model["results"]:
                if {"type", "name"} - result["dataset"].keys() or any("value" not in m for m in result["metrics"]):
                    errors.append('"model-index" must name the dataset and the value of every metric')
        body = {"errors": [{"message": error} for error in errors], "warnings": []}
        self.send_json(body, 400 if errors else 200)

    def create_branch(self, repo_id: str, branch: str) -> None:
        self.given()
        sha, files = self.find(repo_id, json.loads(self.body).get("startingPoint", "main"))
        with self.hub.lock:
            repo = self.hub.repos[repo_id]
            if branch in repo.branches:
                raise Refusal(409, "BranchExists", f"Reference already exists: {branch}")
            repo.branches[branch] = sha
        self.send_json({})

    def preupload(self, repo_id: str, revision: str) -> None:
        """Says of each file whether it is large, and what stands in its place now."""
        _, files = self.find(repo_id, revision)
        answers = []
        for file in self.given()["files"]:
            path = file["path"]
            large = path.endswith(LARGE)
            there = files.get(path)
            oid = there and (there.sha256 if large else there.git_id)
            answers.append(
                {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}
            )
        self.send_json({"files": answers})

    def lfs_batch(self, repo_id: str) -> None:
        """Where the objects that are not here yet have to go."""
        objects: list[dict[str, Any]] = []
        for wanted in self.given()["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
            objects.append(answer)
        self.send_json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "BadDigest", "The body does not have the digest of its address")
        with self.hub.lock:
            if self.hub.space_for == 0:
                raise Refusal(403, "StorageLimit", "Storage limit reached")
            if self.hub.space_for is not None:
                self.hub.space_for -= 1
            self.hub.objects[oid] = Blob(self.body)
        self.send_json({})

    def commit(self, repo_id: str, revision: str) -> None:
        self.check_token()
        head, files = self.find(repo_id, revision)
        files = dict(files)
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                if value.get("parentCommit", head) != head:
                    raise Refusal(412, "Conflict", "A commit has happened since")
            elif item["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]))
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refusal(400, "LfsMissing", f"Your push refers to an LFS object that is not here: {value}")
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise Refusal(400, "BadCommit", f"Unknown operation {item['key']}")
        with self.hub.lock:
            sha = self.hub.repos[repo_id].commit(revision, files)
        self.send_json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}"})

    # --- what several answers need -------------------------------------------------------------------------------

    def check_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Unauthorized", "Invalid username or password.")

    def given(self) -> Any:
        """The body of a request that needs a token."""
        self.check_token()
        return json.loads(self.body or b"{}")
