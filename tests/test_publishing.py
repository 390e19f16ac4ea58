"""Files for a release and for the host: workflows, templates, recipe, citation."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import numadam
from tests import extras, owner

ROOT = Path(numadam.__file__).parents[1]
GITHUB = ROOT / ".github"
extras.need_machine((GITHUB / "workflows").exists(), "workflows: they are not in the sdist")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
FILES = sorted((GITHUB / "workflows").iterdir())
#: names of packages that conda-forge calls otherwise: none so far
CONDA_NAMES: dict[str, str] = {}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


WORKFLOWS = {path.name: load(path) for path in FILES}
JOBS = [(file, name, job) for file, flow in WORKFLOWS.items() for name, job in flow["jobs"].items()]
STEPS = [(file, step) for file, _, job in JOBS for step in job["steps"]]


def triggers(file: str) -> dict[str, Any]:
    return WORKFLOWS[file][True]  # YAML reads the key `on` as a truth value


def script(file: str, name: str) -> str:
    """The shell script of a step."""
    (found,) = (step["run"] for home, step in STEPS if home == file and step.get("name") == name)
    return found


def bash(code: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the host does: it ends at the first error."""
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", code],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
    )


def stages(variable: str) -> list[str]:
    """Names of the stages in one of the lists of .ci/run."""
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (rows,) = re.findall(rf"^{variable}='\n(.*?)'$", text, re.MULTILINE | re.DOTALL)
    return [row.split()[0] for row in rows.splitlines()]


def test_every_stage_has_a_job() -> None:
    jobs = WORKFLOWS["ci.yml"]["jobs"]
    assert ["tests", *jobs["stages"]["strategy"]["matrix"]["stage"]] == stages("STAGES")
    assert set(triggers("ci.yml")) == {"pull_request", "push", "workflow_dispatch"}


def test_one_check_stands_for_all_of_ci(tmp_path: Path) -> None:
    jobs = WORKFLOWS["ci.yml"]["jobs"]
    passed = jobs["passed"]
    assert set(passed["needs"]) == set(jobs) - {"passed"}
    assert passed["if"] == "always()"  # where it is skipped, the host lets a change in
    check = script("ci.yml", "Every job has passed")
    assert bash(check, tmp_path, RESULTS="success success").returncode == 0
    for results in ("success failure", "cancelled success", "success skipped", "success", ""):
        assert bash(check, tmp_path, RESULTS=results).returncode == 1, results


def test_no_run_of_main_or_of_a_release_is_cancelled_by_the_next() -> None:
    concurrency = {file: flow["concurrency"] for file, flow in WORKFLOWS.items()}
    assert "pull_request.number || github.run_id" in concurrency["ci.yml"]["group"]
    for file in ("nightly.yml", "release.yml"):
        assert concurrency[file]["cancel-in-progress"] is False


def test_stages_and_extras_that_workflows_name_exist() -> None:
    runs = "\n".join(step.get("run", "") for _, step in STEPS)
    named = set(re.findall(r"\.ci/run (\S+)", runs))
    assert set(stages("MORE")) < named <= {*stages("STAGES"), *stages("MORE"), '"$STAGE"'}
    extras = re.findall(r'-e "\.\[(.+?)\]"', runs)
    assert extras
    assert {one for some in extras for one in some.split(",")} <= set(
        PROJECT["optional-dependencies"]
    )


def test_every_python_of_the_classifiers_is_tested() -> None:
    listed = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert listed[0] == PROJECT["requires-python"].removeprefix(">=")
    jobs = WORKFLOWS["ci.yml"]["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == listed
    (setup,) = (
        step["with"]["python-version"]
        for step in WORKFLOWS["nightly.yml"]["jobs"]["pythons"]["steps"]
        if "python-version" in step.get("with", {})
    )
    assert sorted(setup.split()) == listed


def test_a_tag_that_is_not_the_version_publishes_nothing(tmp_path: Path) -> None:
    check = script("release.yml", "The tag is the version, and the changelog has it")
    changes = tmp_path / "CHANGELOG.md"
    tag = f"v{numadam.__version__}"
    changes.write_text("## [Unreleased]\n", encoding="utf-8")
    done = bash(check, tmp_path, GITHUB_REF_NAME=tag)
    assert (done.returncode, "no heading" in done.stdout) == (1, True)
    changes.write_text(f"## [{numadam.__version__}] - 2026-01-31\n", encoding="utf-8")
    assert bash(check, tmp_path, GITHUB_REF_NAME=tag).returncode == 0
    done = bash(check, tmp_path, GITHUB_REF_NAME="v0.0.1")
    assert (done.returncode, "The tag is v0.0.1" in done.stdout) == (1, True)


def test_a_commit_that_is_not_on_main_publishes_nothing(tmp_path: Path) -> None:
    check = script("release.yml", "The commit is on main")
    setup = """
    export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
    commit() { git -c user.name=A -c user.email=a@example.org commit -q --allow-empty -m "$1"; }
    git init -q -b main origin && cd origin
    commit first && git tag early && commit second
    git switch -q -c aside && commit third && git tag aside
    for tag in early aside; do # as the host checks out: one commit, without a branch
        git init -q "../$tag" && cd "../$tag" && git remote add origin "file://$PWD/../origin"
        git fetch -q --depth=1 origin "refs/tags/$tag" && git checkout -q --detach FETCH_HEAD
    done
    """
    done = bash(setup, tmp_path)
    assert done.returncode == 0, done.stderr
    assert bash(check, tmp_path / "early").returncode == 0
    done = bash(check, tmp_path / "aside")
    assert (done.returncode, "not on main" in done.stdout) == (1, True)


def test_files_that_were_not_tested_are_not_published(tmp_path: Path) -> None:
    compare = script("release.yml", "The files to publish are those that were tested")
    for folder in ("dist", "tested"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.whl").write_text("the same")
    assert bash(compare, tmp_path).returncode == 0
    (tmp_path / "dist" / "one.whl").write_text("another")
    assert bash(compare, tmp_path).returncode == 1


@pytest.mark.parametrize(("open_issue", "verb"), [("", "create"), ("7", "comment 7")])
def test_a_failed_week_is_reported_once(tmp_path: Path, open_issue: str, verb: str) -> None:
    report = WORKFLOWS["nightly.yml"]["jobs"]["report"]
    assert set(report["needs"]) == set(WORKFLOWS["nightly.yml"]["jobs"]) - {"report"}
    for result in ("failure", "cancelled"):  # the host's word where time runs out
        assert f"contains(needs.*.result, '{result}')" in report["if"]
    gh = tmp_path / "gh"
    gh.write_text(f'#!/bin/sh\necho "$@" >> calls\n[ "$2" = list ] && echo "{open_issue}" || :\n')
    gh.chmod(0o755)
    code = script("nightly.yml", "Open an issue, or comment on the open one")
    done = bash(code, tmp_path, TITLE="The title", RUN="the run")
    assert done.returncode == 0, done.stderr
    search, call = (tmp_path / "calls").read_text().splitlines()
    assert 'in:title "The title"' in search
    assert call.startswith(f"issue {verb} ")
    assert call.endswith(": the run")


# --- what an owner fills in ----------------------------------------------------------------------

GIVEN = {"address": "https://code.example/us/adam", "index": "adam-us", "doi": "10.1234/adam.5"}
UNSET = dict.fromkeys(GIVEN, "")


@pytest.fixture(params=[UNSET, GIVEN], ids=["unset", "given"])
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkout whose owner has filled in nothing, or everything."""
    for name in (*owner.FILES, ".ci/owner.toml", ".ci/build_hook.py", "numadam/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in PROJECT["license-files"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    lines = "".join(f'{key} = "{value}"\n' for key, value in request.param.items())
    (tmp_path / ".ci" / "owner.toml").write_text(lines, encoding="utf-8")
    for _ in range(2):  # a second time changes nothing
        for path, text in owner.written(tmp_path).items():
            path.write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.package("hatchling")
def test_metadata_have_what_the_owner_filled_in(checkout: Path) -> None:
    given = owner.owner(checkout)
    command = [sys.executable, "-m", "hatchling", "metadata"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["name"] == (given["index"] or "numadam")
    urls = made.get("urls", {})
    assert urls.get("Source", "") == given["address"]
    assert all(url.startswith(given["address"]) for url in urls.values())
    assert made["version"] == numadam.__version__


def test_pages_have_what_the_owner_filled_in(checkout: Path) -> None:
    given = owner.owner(checkout)
    texts = {name: (checkout / name).read_text(encoding="utf-8") for name in owner.FILES}
    if given == UNSET:
        assert texts == {name: (ROOT / name).read_text(encoding="utf-8") for name in owner.FILES}
        return
    for name in owner.PAGES:
        assert re.search(rf'pip install "?{given["index"]}\b', texts[name]), name
        lines = [line for line in texts[name].splitlines() if "install -e" in line]
        assert all("pytest" in line for line in lines), name
    readme = texts["README.md"]
    targets = re.findall(r"\]\(([^)]+)\)", readme)
    assert targets
    assert all(target.startswith("https://") for target in targets)
    assert f"{given['address']}/raw/main/docs/images/speed.svg" in readme
    for name in ("README.md", "docs/index.md"):
        assert texts[name].count(f"https://doi.org/{given['doi']}") == 1
    citation = yaml.safe_load(texts["CITATION.cff"])
    assert (citation["doi"], citation["repository-code"]) == (given["doi"], given["address"])
    scope = runpy.run_path(str(checkout / "numadam" / "_version.py"))
    (checkout / "pyproject.toml").unlink()  # else an install is one of the checkout
    assert scope["install_command"]("demo") == f'pip install "{given["index"]}[demo]"'


def test_citation_has_version_and_date_of_the_changelog() -> None:
    citation = load(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert str(citation["version"]) == numadam.__version__
    # of the program; the rest of the package's are of data
    assert citation["license"] == PROJECT["license"].partition(" AND ")[0]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    dates = dict(re.findall(r"^## \[(.+?)\] - (\S+)$", changes, re.MULTILINE))
    # before its release a version has no date
    date = citation.get("date-released")
    assert dates.get(numadam.__version__) == (None if date is None else str(date))


def recipe() -> dict[str, Any]:
    """The recipe, with its own names put in."""
    text = (ROOT / ".ci" / "recipe.yaml").read_text(encoding="utf-8")
    for name, value in yaml.safe_load(text)["context"].items():
        text = text.replace(f"${{{{ {name} }}}}", value)
    return yaml.safe_load(text)


def conda(requirement: str) -> str:
    """A requirement of pyproject.toml as conda writes it; without its marker."""
    name, least = re.fullmatch(r"([\w-]+)(>=[\d.]+)", requirement.partition(";")[0]).groups()
    return f"{CONDA_NAMES.get(name, name)} {least}"


def test_the_recipe_says_what_pyproject_says() -> None:
    made = recipe()
    assert made["package"] == {"name": PROJECT["name"], "version": numadam.__version__}
    needs = made["requirements"]
    optional = [one for one in PROJECT["dependencies"] if ";" in one]  # not on every machine
    always = [one for one in PROJECT["dependencies"] if ";" not in one]
    python = PROJECT["requires-python"]
    assert needs["run"] == [f"python {python}", *map(conda, always)]
    assert needs["run_constraints"] == [conda(one) for one in optional]
    assert f"python {python.removeprefix('>=')}.*" in needs["host"]
    assert set(map(conda, PYPROJECT["build-system"]["requires"])) <= set(needs["host"])
    commands = [f"{name} = {home}" for name, home in PROJECT["scripts"].items()]
    assert made["build"]["python"]["entry_points"] == commands
    assert made["about"]["summary"] == PROJECT["description"]
    assert made["about"]["license"] == PROJECT["license"]
    assert made["about"]["license_file"] == PROJECT["license-files"]
    assert made["source"]["path"] == f"../dist/numadam-{numadam.__version__}.tar.gz"


@pytest.mark.package("rattler_build")
def test_the_recipe_renders() -> None:
    """By rattler-build's own reader, which also checks every field and every requirement."""
    import rattler_build as build

    (made,) = build.Stage0Recipe.from_file(ROOT / ".ci" / "recipe.yaml").render()
    shown = made.recipe.to_dict()
    for section in ("package", "requirements"):
        assert shown[section] == recipe()[section]
    assert shown["build"]["noarch"] == "python"
