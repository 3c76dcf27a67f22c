"""What of a folder is sent: all of the project, and nothing that is secret, ignored, large by nature or elsewhere."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsweep.errors import SpaceError
from archsweep.submitting import package
from archsweep.submitting.door import Token

CANARY = "canary-5f2d9c"
OURS = ("archsweep/", "search_spaces/")


def plant(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{CANARY} {name}")


def sent(root: Path) -> set[str]:
    """The names that are sent of a folder, without our own packages."""
    return {str(name) for name in package.choose(root).files if not str(name).startswith(OURS)}


def test_the_users_own_code_and_texts_are_sent_with_our_packages_as_they_are_installed(tmp_path: Path) -> None:
    ours = (
        "question.py",
        "metrics/own.py",
        "tokenizer.json",
        "text/tokens.txt",
        "results.py",
        "cache/__init__.py",
        "keys.py",
        "secret_sauce.py",
        "README.md",
    )
    plant(tmp_path, *ours)
    assert sent(tmp_path) == set(ours)
    names = {str(name) for name in package.choose(tmp_path).files}
    assert {"archsweep/__init__.py", "archsweep/analysis/templates/report.html.j2", "search_spaces/heads_vs_layers.py"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_a_copy_of_our_package_in_the_folder_is_the_one_that_is_sent(tmp_path: Path) -> None:
    plant(tmp_path, "archsweep/__init__.py", "archsweep/mine.py")
    files = package.choose(tmp_path).files
    assert {str(name) for name in files if str(name).startswith("archsweep/")} == {"archsweep/__init__.py", "archsweep/mine.py"}


def test_a_key_file_of_google_stays_here_whatever_its_name(tmp_path: Path) -> None:
    plant(tmp_path, "question.py")
    (tmp_path / "my-project-1a2b3c4d5e6f.json").write_text('{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----"}')
    (tmp_path / "sizes.json").write_text('{"public": 1}')
    assert sent(tmp_path) == {"question.py", "sizes.json"}


def test_another_space_of_a_file_is_checked_and_named_like_its_first(tmp_path: Path) -> None:
    plant(tmp_path, "question.py")
    found = package.choose(tmp_path)
    assert package.relative_space(f"{tmp_path / 'question.py'}:by_time", tmp_path, found) == "question.py:by_time"
    assert package.relative_space("layers_vs_width:by_time", tmp_path, found) == "layers_vs_width:by_time"
    with pytest.raises(SpaceError, match="must lie in the folder that is sent"):
        package.relative_space("/elsewhere/my.py:by_time", tmp_path, found)


@pytest.mark.parametrize(
    "name",
    ["me_accessKeys.csv", "rootkey.csv",
     ".env", ".env.local", "prod.env", ".git/config", ".venv/lib/x.py", ".aws/credentials", ".netrc", ".ssh/id_rsa",
     ".ray/auth_token", "server.pem", "TLS.KEY", "store.p12", "id_rsa", "keys/id_ed25519", "id_ed25519.pub", "credentials.json",
     "gcp-credentials.json", "auth_token", "auth_token.txt", "hf_token", "token", "secrets/db.txt", "secrets.yaml", "my_api_key.txt",
     "kubeconfig", "prod.tfvars", "my-service-account-key.json", "client_secret.json", "my-secrets.yml", "results/a/plan.json",
     "runs/results/x.json", "checkpoints/1.json", "checkpoint-100/x.json", "m.safetensors", "deep/model.pt", "__pycache__/a.pyc",
     "a.pyc", "node_modules/x.js", "wandb/run.json", ".mypy_cache/x.json", "hf_cache/x.json"],
)  # fmt: skip
def test_secrets_results_weights_and_caches_stay_here_whatever_the_ignore_files_say(name: str, tmp_path: Path) -> None:
    plant(tmp_path, name, "question.py")
    (tmp_path / ".rayignore").write_text(f"!{name}\n!*\n")
    chosen = package.choose(tmp_path)
    package.write(chosen, tmp_path / "package.zip", None)
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        assert name not in archive.namelist()
        assert "question.py" in archive.namelist()
        assert not [each for each in archive.namelist() if f"{CANARY} {name}".encode() in archive.read(each)]


def test_a_sweep_an_environment_and_a_private_key_are_known_by_what_they_hold(tmp_path: Path) -> None:
    plant(tmp_path, "runs/one/plan.json", "runs/one/trials/a/records.jsonl", "python/pyvenv.cfg", "python/bin/tool.py", "question.py")
    (tmp_path / "notes.txt").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n")
    (tmp_path / "about_keys.py").write_text('"""How a key begins: -----BEGIN OPENSSH PRIVATE KEY-----."""\n')
    chosen = package.choose(tmp_path)
    assert sent(tmp_path) == {"question.py", "about_keys.py"}
    assert "they look like secrets and stay here: notes.txt" in str(chosen)


def test_links_out_of_the_folder_are_not_followed_and_links_to_secrets_in_it_are_secrets(tmp_path: Path) -> None:
    root, outside = tmp_path / "project", tmp_path / "outside"
    plant(outside, "private.txt", "folder/private.txt")
    plant(root, ".env", "id_rsa", "results/a/rows.txt", "data/text.txt", "question.py")
    for link, target in {
        "out.txt": outside / "private.txt",
        "out": outside / "folder",
        "hidden.txt": root / ".env",
        "key.txt": root / "id_rsa",
        "rows.txt": root / "results/a/rows.txt",
        "kept": root / "results",
        "text.txt": root / "data/text.txt",
        "more": root / "data",
        "loop": root,
        "gone.txt": root / "nowhere",
    }.items():
        (root / link).symlink_to(target)
    assert sent(root) == {"question.py", "data/text.txt", "text.txt", "more/text.txt"}


NAMES = st.sampled_from(["a", "b", "data", "x.txt", "y.txt", "z.py"])
PATTERNS = st.sampled_from(
    ["a", "b/", "/a", "data/", "*.txt", "!x.txt", "/data/*", "!/data/x.txt", "a/**", "**/b", "data/**/y.txt", "# x", "", "[xy].txt", "?.py"]
)
IGNORE_FILES = st.sampled_from([".gitignore", ".rayignore", "a/.rayignore", "data/.gitignore"])


def planted(root: Path, names: set[str], ignoring: dict[str, list[str]]) -> None:
    for name in sorted(names, key=len, reverse=True):
        if not (root / name).exists() and not any(parent.is_file() for parent in (root / name).parents):
            plant(root, name)
    for name, patterns in ignoring.items():
        if (root / name).parent.is_dir():
            (root / name).write_text("\n".join(patterns))


FOLDERS = st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(FOLDERS, st.dictionaries(IGNORE_FILES, st.lists(PATTERNS.filter(lambda each: not each.startswith("!")), max_size=4), max_size=3))
def test_what_rays_own_packing_leaves_out_is_left_out_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], ignoring: dict[str, list[str]]
) -> None:
    from ray._private.runtime_env.packaging import create_package

    root, archive = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("sent") / "rays.zip"
    planted(root, names, ignoring)
    create_package(str(root), archive, include_gitignore=True)
    with zipfile.ZipFile(archive) as rays:
        expected = {name for name in rays.namelist() if not name.endswith("/") and not PurePosixPath(name).name.startswith(".")}
    assert sent(root) == expected


def test_a_pattern_brings_back_what_its_own_file_left_out_and_no_other_file_does(tmp_path: Path) -> None:
    plant(tmp_path, "data/kept.txt", "data/other.txt", "folder/a.txt", "notes.md")
    (tmp_path / ".gitignore").write_text("data/*\n!data/kept.txt\nfolder/\n!folder/a.txt\n*.md\n")
    (tmp_path / ".rayignore").write_text("!notes.md\n!data/other.txt\n")
    assert sent(tmp_path) == {"data/kept.txt"}  # as git has it, a file in a folder that is left out is not brought back


def test_the_same_files_make_the_same_package_and_another_byte_another(tmp_path: Path) -> None:
    plant(tmp_path / "project", "question.py", "tool.sh")
    (tmp_path / "project/tool.sh").chmod(0o755)

    def packed(name: str) -> bytes:
        package.write(package.choose(tmp_path / "project"), tmp_path / name, None)
        return (tmp_path / name).read_bytes()

    first = packed("first.zip")
    (tmp_path / "project/question.py").touch()
    assert packed("again.zip") == first
    plant(tmp_path / "project", "another.py")
    assert packed("other.zip") != first


def test_a_package_beyond_what_a_head_takes_is_refused_and_its_largest_file_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import random

    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE

    assert package.MOST_BYTES == DASHBOARD_CLIENT_MAX_SIZE
    monkeypatch.setattr(package, "MOST_BYTES", 2 * 2**20)
    plant(tmp_path, "question.py")
    (tmp_path / "large.bin").write_bytes(random.Random(0).randbytes(3 * 2**20))
    with pytest.raises(
        SpaceError, match=r"packs to 3 MiB, .* at most 2, packed\. The largest file is large.bin with 3 MiB: name in .rayignore"
    ):
        package.write(package.choose(tmp_path), tmp_path.parent / "large.zip", None)
    (tmp_path / "large.bin").write_bytes(bytes(21 * 2**20))  # which would pack to next to nothing, after a long time
    with pytest.raises(SpaceError, match=r"has 2\d MiB"):
        package.write(package.choose(tmp_path), tmp_path.parent / "large.zip", None)


def test_a_file_that_holds_the_clusters_token_is_refused_without_saying_it(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("the token is 0123456789abcdef")
    with pytest.raises(SpaceError, match=r"notes.md holds the cluster's token") as refused:
        package.write(package.choose(tmp_path), tmp_path.parent / "token.zip", Token("0123456789abcdef", "a file"))
    assert "0123456789abcdef" not in str(refused.value)


def test_a_home_folder_is_too_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path, Path("/")):
        with pytest.raises(SpaceError, match="too wide"):
            package.choose(folder)


def test_a_search_space_is_named_as_it_lies_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path / "project", "spaces/question.py", "ignored.py")
    plant(tmp_path, "elsewhere.py")
    (tmp_path / "project/.rayignore").write_text("ignored.py\n")
    monkeypatch.chdir(tmp_path / "project")
    chosen = package.choose(Path.cwd())
    assert package.relative_space("heads_vs_layers", Path.cwd(), chosen) == "heads_vs_layers"
    for word in ("spaces/question.py", "./spaces/../spaces/question.py", str(tmp_path / "project/spaces/question.py")):
        assert package.relative_space(word, Path.cwd(), chosen) == "spaces/question.py"
    with pytest.raises(SpaceError, match="must lie in the folder that is sent"):
        package.relative_space("../elsewhere.py", Path.cwd(), chosen)
    with pytest.raises(SpaceError, match="must be among the files that are sent"):
        package.relative_space("ignored.py", Path.cwd(), chosen)
