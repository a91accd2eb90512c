"""What the documents say is true: their Python runs, their commands and files exist, and they name no machine."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tokenize
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EXAMPLES = sorted(ROOT.glob("examples/*.py"))

MACHINE_PATH = re.compile(r"(?<![\w.$}~-])/(?:work|root|home|tmp|opt|Users)/")
REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.org|npmjs\.\w+|anaconda\.org|ghcr\.io|docker\.io|"
    r"\w+\.pkg\.dev|jfrog\.io|--(?:extra-)?index-url|--find[-]links|^\s*-[if] ",
    re.IGNORECASE | re.MULTILINE,
)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(ROOT)) for path in paths])


def repository_files():
    """Every text that is, or is about to be, under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in sorted(set(listed.split("\0")) - {""}):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode()


def python_of(document):
    """The Python blocks of a document as one script, every line where it stands in the document.

    An expression alone on its line, followed by a literal as its comment, is a claim, and becomes an assertion:

        future.resolve()     # -60
        future.resolve()     # -60: independent calls ran in parallel
    """
    text = document.read_text()
    lines = [""] * text.count("\n")
    for fence in FENCE.finditer(text):
        language, block = fence.groups()
        if language == "python":
            first = text.count("\n", 0, fence.start(2))
            lines[first : first + block.count("\n")] = with_claims_checked(block).splitlines()
    return "\n".join(lines)


def with_claims_checked(block):
    lines = block.splitlines()
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(StringIO(block).readline)
        if token.type == tokenize.COMMENT
    }
    for statement in ast.parse(block).body:
        line = statement.lineno
        if isinstance(statement, ast.Expr) and line == statement.end_lineno and (claim := literal(comments.get(line))):
            expression = ast.get_source_segment(block, statement)
            lines[line - 1] = f"assert ({expression}) == ({claim}), repr({expression})"
    return "\n".join(lines)


def literal(comment):
    """The Python literal with which a comment begins: all of it, or up to a colon."""
    said = (comment or "#").removeprefix("#").strip()
    for text in (said, said.partition(": ")[0]):
        try:
            ast.literal_eval(text)
        except (SyntaxError, ValueError):
            continue
        return text
    return None


@pytest.fixture
def elsewhere(tmp_path):
    """A copy of the examples, so that what they draw does not replace what is kept in the repository."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(script, *arguments, cwd):
    """Run a script as its reader would, in a place of its own, with every warning an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", script, *arguments],
        cwd=cwd,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.needs("pygraphviz", "matplotlib")
@named([document for document in DOCUMENTS if python_of(document).strip()])
def test_the_python_of_a_document_runs(path, tmp_path):
    """From top to bottom, as one program; line numbers in a traceback are those of the document."""
    script = tmp_path / f"{path.stem}.py"
    script.write_text(python_of(path))
    run(script, cwd=tmp_path)


@pytest.mark.needs("pygraphviz", "matplotlib")
@named(EXAMPLES)
def test_an_example_runs(path, elsewhere):
    run(elsewhere / path.relative_to(ROOT), cwd=elsewhere)


@pytest.mark.needs("pygraphviz")
def test_the_demo_draws_its_picture(elsewhere):
    """`make demo` promises a file; ask for it in the same words."""
    recipe = (ROOT / "Makefile").read_text()
    script, *arguments = re.search(r"python (examples/\S+.*)", recipe)[1].split()
    picture = re.search(r"The picture is (\S+?)\"", recipe)[1]
    run(elsewhere / script, *arguments, cwd=elsewhere)
    assert (elsewhere / picture).read_bytes().startswith(b"\x89PNG")


@named(DOCUMENTS)
def test_commands_exist(path):
    """Every `make something` that a document shows is a rule of the Makefile."""
    rules = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = path.read_text()
    shown = [block for language, block in FENCE.findall(text) if language != "python"]
    shown += re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    asked = {rule for code in shown for rule in re.findall(r"\bmake +([a-z][\w-]*)", code)}
    assert asked <= rules


@named(DOCUMENTS)
def test_links_lead_somewhere(path):
    text = FENCE.sub("", path.read_text())
    links = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r"(?:src|href)=\"([^\"#]+)", text)
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (path.parent / link).exists()] == []


@pytest.mark.needs("git")
def test_no_file_names_a_machine_or_a_registry():
    """What is written here holds on anybody's machine."""
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in repository_files()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATH.search(line) or REGISTRY.search(line)
    ]
    assert found == []


@pytest.mark.needs("git")
def test_every_extra_that_is_named_exists():
    extras = set(importlib.metadata.metadata("tinygraph").get_all("Provides-Extra"))
    named_extras = {
        extra
        for name, text in repository_files()
        for group in re.findall(r"(?<![\w.])tinygraph\[([a-z,]+)\]", text)
        for extra in group.split(",")
        if not name.startswith("tests/")
    }
    assert named_extras <= extras
