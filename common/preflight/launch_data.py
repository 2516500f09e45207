"""The user's files made ready for a trainer: converted, split, compared with those that a run was started with.

Everything is written into a separate folder; the launcher moves it into the run directory (``common.run_data``), so
that a check, or ``DRY_RUN=1``, leaves nothing behind.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import run_data
from common.data.convert import BadRows, Options, Source, convert
from common.data.hub import is_hub_id
from common.data.readers.files import DataError, data_files
from common.data.readers.records import place_word
from common.preflight import data
from common.preflight.data_checks import check_file, in_own_form
from common.preflight.data_split import split_files
from common.preflight.extensions import find_path
from common.preflight.findings import Problem, about
from common.preflight.knobs import ROOT, SUPERVISED, Knobs, read_block, script_of
from common.preflight.run_name import OUTPUTS

TOOL = ".venv/bin/python -m common.data_utils"
SIDES = {"TRAIN_DATA": "train", "VAL_DATA": "val"}


@dataclass
class LaunchData:
    """The data of a launch.

    Args:
        folder: What was written for it, None where a run's own data is used again.
        files: Knob -> files, those in ``folder`` included.
        reason: How ``VAL_DATA=auto`` was resolved.
    """

    folder: Path | None
    files: dict[str, list[Path]] = field(default_factory=dict)
    reason: str = ""

    def discard(self) -> None:
        """Remove the folder."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def places(self, knob: str, run_dir: Path) -> list[Path]:
        """Where the files of a knob will be once the run directory is there."""
        ours = run_dir / run_data.FOLDER
        return [ours / path.name if path.parent == self.folder else path for path in self.files[knob]]


def make_ready(knobs: Knobs) -> tuple[list[data.DataFile], list[data.DataFile]]:
    """Find, convert, split and read the files of ``TRAIN_DATA`` and ``VAL_DATA``; what is wrong goes to the errors.

    Returns:
        Files to train on and to validate on.
    """
    before = len(knobs.errors)
    sample = _is_sample(knobs)
    if sample:
        knobs.resolve("VAL_DATA", knobs["TRAIN_DATA"].replace("train.parquet", "val.parquet"), "the sample's own")
    given = {name: find_files(knobs, name) for name in SIDES if not knobs.is_auto(name)}
    launch = knobs.data = LaunchData(None)
    if len(knobs.errors) == before and not _resume(knobs, launch, given) and len(knobs.errors) == before:
        launch.folder = Path(tempfile.mkdtemp(prefix="data-"))
        _prepare(knobs, launch, given)
    return tuple(
        [file for path in launch.files.get(name, []) if (file := check_file(knobs, name, path))] for name in SIDES
    )


def set_knobs(knobs: Knobs, run_dir: Path) -> None:
    """Let the knobs name the files as the run will have them."""
    launch = knobs.data
    if not launch or set(launch.files) != set(SIDES):
        return
    for name in SIDES:
        text = ",".join(str(path) for path in launch.places(name, run_dir))
        if knobs.is_auto(name):
            knobs.resolve(name, text, launch.reason)
        knobs.values[name] = text


def coming(knobs: Knobs, run_dir: Path) -> frozenset[str]:
    """Files that are not in the run directory yet and will be when the run starts."""
    launch = knobs.data
    names = [] if launch is None or launch.folder is None else launch.files
    return frozenset(str(path) for name in names for path in launch.places(name, run_dir))


# ---- the files that the knobs name ------------------------------------------------------------------------


def find_files(knobs: Knobs, name: str) -> list[Path]:
    """The files of a knob: one, several with commas between, or all data files of a folder."""
    text = knobs[name]
    whole = find_path(text)
    parts = [text] if whole else [part.strip() for part in text.split(",") if part.strip()]
    files: list[Path] = []
    for part in parts:
        path = find_path(part)
        if path is None:
            knobs.error(name, _missing(part), value=part)
            continue
        try:
            files += data_files(path) if path.is_dir() else [path]
        except DataError as error:
            knobs.error(name, about(path, error), value=path)
    return files


def _missing(text: str) -> Problem:
    """Why a file is not there, and what to do."""
    if re.match(r"\w+://", text):
        return Problem("is an address", f"fetch it first (curl -LO {shlex.quote(text)}) and name the file")
    path = Path(os.environ.get("CALLER_DIR", "."), Path(text).expanduser())
    there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=1)
    if near:
        return Problem("no such file", f"did you mean {Path(text).parent / near[0]}?")
    if is_hub_id(text):
        return Problem("no such file", f"a data set of a hub is fetched with {TOOL} convert {text} train.parquet")
    where = "no such file" if path.parent.is_dir() else f"no such file, nor a folder {Path(text).parent}"
    return Problem(where, f"correct the path (looked in {path.parent})")


def _is_sample(knobs: Knobs) -> bool:
    return find_path(knobs["TRAIN_DATA"]) == ROOT / read_block(script_of(knobs.algorithm))["TRAIN_DATA"]


# ---- a run that is resumed ---------------------------------------------------------------------------------


def _resume(knobs: Knobs, launch: LaunchData, given: dict[str, list[Path]]) -> bool:
    """Use the data of a run again where it was made from the same files; another content is an error."""
    name = knobs["EXPERIMENT_NAME"]
    run_dir = (OUTPUTS / name).resolve()
    before = {} if knobs.is_auto("EXPERIMENT_NAME") or os.environ.get("STAGE") else run_data.read_sources(run_dir)
    if not before:
        return False
    ours = run_dir / run_data.FOLDER
    for knob in SIDES:
        files = given.get(knob)
        if files and all(path.parent == ours for path in files):
            continue  # as the run's own knobs name them
        now = run_data.marks_of(files) if files else "auto"
        own = knob == "VAL_DATA" and files is None and before[knob] != "auto"
        if own or not run_data.same_content(before[knob], now):
            knobs.error(knob, _changed(before, knob, ours))
    launch.files = {knob: [ours / path for path in before["files"][knob]] for knob in SIDES}
    launch.reason = before.get("reason", "")
    return True


def _changed(before: dict[str, Any], knob: str, ours: Path) -> Problem:
    """What to say of data that is not what a run was started with."""
    was = before[knob] if isinstance(before[knob], str) else ",".join(mark["path"] for mark in before[knob])
    kept = ",".join(str(ours / path) for path in before["files"][knob] if not Path(path).is_absolute())
    keep = (
        f"set {knob}={kept} to continue with the original rows" if kept else f"set {knob}={was} as it was at the start"
    )
    run = ours.parent
    return Problem(
        f"is not the data that {run.name} was started with ({was})",
        f"{keep}, or choose another EXPERIMENT_NAME (RESUME={run} then resumes from its last checkpoint with the new "
        "data)",
    )


# ---- a run that starts ------------------------------------------------------------------------------------


def _prepare(knobs: Knobs, launch: LaunchData, given: dict[str, list[Path]]) -> None:
    """Convert and split into the launch's folder, and write down what the rows come from."""
    for knob, files in given.items():
        launch.files[knob] = _converted(knobs, launch.folder, knob, files)
    if knobs.is_auto("VAL_DATA") and launch.files["TRAIN_DATA"]:
        before = len(knobs.errors)
        for path in launch.files["TRAIN_DATA"]:  # while the rows are where the user can find them
            check_file(knobs, "TRAIN_DATA", path)
        if len(knobs.errors) > before:
            launch.files = {}
            return
        _split(knobs, launch)
    if not all(launch.files.get(knob) for knob in SIDES):
        launch.files = {}
        return
    files = {
        knob: [path.name if path.parent == launch.folder else str(path) for path in paths]
        for knob, paths in launch.files.items()
    }
    marks = {knob: run_data.marks_of(given[knob]) if knob in given else "auto" for knob in SIDES}
    content = {**marks, "files": files, "reason": launch.reason}
    (launch.folder / run_data.SOURCES_FILE).write_text(
        json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )


def _converted(knobs: Knobs, folder: Path, knob: str, files: list[Path]) -> list[Path]:
    """The files as the trainer reads them: parquet of verl's own form as it is, all others in one new file."""
    own, others = [], []
    for path in files:
        (own if in_own_form(path, knobs.data_form) else others).append(path)
    if commas := [path for path in own if "," in str(path)]:
        knobs.error(knob, "a comma separates files", "rename it without one", value=commas[0])
    if not others:
        return own
    target = folder / f"{SIDES[knob]}.parquet"
    try:
        report = convert([Source(path) for path in others], target, Options(algorithm=knobs.data_form))
    except (DataError, OSError) as error:
        _refuse(knobs, knob, others, error, folder)
        return []
    text = ",".join(str(path) for path in others)
    knobs.warn(
        knob, f"{report.rows_written:,} rows, converted into {run_data.FOLDER}/{target.name} of the run", value=text
    )
    for note, count in report.notes.most_common():
        knobs.warn(knob, f"{note} ({count:,} rows)", value=text)
    return [*own, target]


def _refuse(knobs: Knobs, knob: str, files: list[Path], error: Exception, folder: Path) -> None:
    """Note the data door's own message, and how the file can be converted with options of the user's choice."""
    names = " ".join(shlex.quote(str(path)) for path in files)
    file = next((file for file in files if str(error).startswith(f"{file}: ")), files[0])
    said = about(file, error).text.replace(f"{folder}/", "")
    if isinstance(error, BadRows):
        first, file = error.report.bad[0], error.report.bad[0].file
        counts = f"{error.report.rows_bad:,} of {error.report.read:,} rows cannot be used"
        said = f"{place_word(file)} {first.place}: {first.problem} ({counts})"
    options = f"{TOOL} convert {names} mine.parquet --algo {knobs.data_form}"
    fix = (
        f"fix it; or, to name columns, an encoding or a sheet, or to leave bad rows out (--skip-bad): {options}, then "
        f"{knob}=mine.parquet (convert --help lists the options)"
    )
    knobs.error(knob, said, fix, value=file)


def _split(knobs: Knobs, launch: LaunchData) -> None:
    """``VAL_DATA=auto``: keep a share of the training data for validation."""
    files = []
    for path in launch.files["TRAIN_DATA"]:
        if path.parent == launch.folder:
            path = path.rename(path.with_name("all.parquet"))
        files.append(path)
    batch = knobs.number("BATCH_SIZE") if knobs.algorithm in SUPERVISED else 0
    try:
        train, val, rows, kept = split_files(files, launch.folder, knobs.data_form, batch)
    except DataError as error:
        knobs.error("TRAIN_DATA", str(error))
        launch.files = {}
        return
    (launch.folder / "all.parquet").unlink(missing_ok=True)
    launch.files = {"TRAIN_DATA": train, "VAL_DATA": val}
    launch.reason = f"{kept:,} of the {rows + kept:,} rows of TRAIN_DATA, chosen by hash and left out of training"
