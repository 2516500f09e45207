"""The trackers that the kit opens itself: verl's own way loses re-trained steps, or the whole tracker, on a resume.

* W&B ignores what comes with a smaller ``step=`` than before, so none is given: ``train/step`` is a value and the axis.
* SwanLab refuses a step that it has; an attempt that goes back is a separate run, with all steps before it.
* MLflow refuses a parameter that has changed, and verl continues without it; of two values of a step the later counts.
* trackio would begin another run of the name, ClearML would add the last step of the attempt before to each step.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.trackers.place import Place
from common.trackers.rows import COLUMNS, COMPARED

STEP = "train/step"  # the axis of W&B


class Wandb:
    """A run of W&B; ``WANDB_RUN_ID`` and ``WANDB_RESUME`` of the launcher keep it over a resume."""

    def __init__(self, place: Place):
        import wandb

        proxy = place.config.get("trainer", {}).get("wandb_proxy")
        self.run = wandb.init(
            project=place.project,
            name=place.name,
            entity=os.environ.get("WANDB_ENTITY") or None,
            dir=os.environ.get("WANDB_DIR") or str(place.run_dir),
            id=place.run_id,
            resume="allow",
            config={**place.config, "knobs": dict(place.knobs)},
            tags=place.tags,
            settings=wandb.Settings(https_proxy=proxy) if proxy else None,
        )
        self.run.define_metric(STEP)
        self.run.define_metric("*", step_metric=STEP)
        wandb.log = self._log  # verl's own tables are logged by this name, with step=
        place.note(id=self.run.id)

    def _log(self, data: dict[str, Any], step: int | None = None, **others: Any) -> None:
        self.run.log({**data, STEP: step} if step is not None else data, **others)

    def log(self, row: dict[str, float], step: int) -> None:
        """Log a row of `rows.row_of`."""
        self._log(row, step)

    def samples(self, rows: list[dict[str, Any]], step: int) -> None:
        """Log answers of a validation, rows of `rows.samples_of`."""
        import wandb

        self._log({"val/samples": wandb.Table(list(COLUMNS), [[row[name] for name in COLUMNS] for row in rows])}, step)

    def files(self, charts: Sequence[Path], compared: list[dict[str, Any]], step: int) -> None:
        """Send the final charts, and rows of `rows.comparison`, as of the last step."""
        import wandb

        table = wandb.Table(list(COMPARED), [[row[name] for name in COMPARED] for row in compared])
        self._log({"comparison": table, **{f"charts/{path.stem}": wandb.Image(str(path)) for path in charts}}, step)

    def finish(self, exit_code: int = 0) -> None:
        """Close the run."""
        self.run.finish(exit_code=exit_code)


class SwanLab:
    """A run of SwanLab, in ``swanlog/`` of the run's folder."""

    def __init__(self, place: Place):
        import swanlab

        attempt = os.environ.get("ATTEMPT", "1")
        self.is_new = not place.known or place.goes_back
        run_id = f"{place.run_id}-{attempt}" if place.goes_back else place.known.get("id", place.run_id)
        mode = os.environ.get("SWANLAB_MODE", "online")
        self.run = swanlab.init(
            project=place.project,
            name=place.name,
            workspace=os.environ.get("SWANLAB_WORKSPACE") or None,
            mode="online" if mode == "cloud" else mode,
            log_dir=os.environ.get("SWANLAB_LOG_DIR") or str(place.run_dir / "swanlog"),
            id=run_id,
            resume="allow",
            group=place.name,
            tags=list(place.tags),
            config={"FRAMEWORK": "verl", **place.config, "knobs": dict(place.knobs)},
        )
        place.note(id=run_id)

    def log(self, row: dict[str, float], step: int) -> None:
        """Log a row of `rows.row_of`."""
        self.run.log(row, step=step)

    def samples(self, rows: list[dict[str, Any]], step: int) -> None:
        """Log answers of a validation, rows of `rows.samples_of`."""
        self._table("val/samples", COLUMNS, rows, step)

    def files(self, charts: Sequence[Path], compared: list[dict[str, Any]], step: int) -> None:
        """Send the final charts, and rows of `rows.comparison`, as of the last step."""
        import swanlab

        self._table("comparison", COMPARED, compared, step)
        for path in charts:
            self.run.log({f"charts/{path.stem}": swanlab.Image(str(path))}, step=step)

    def _table(self, name: str, columns: Sequence[str], rows: list[dict[str, Any]], step: int) -> None:
        import swanlab

        table = swanlab.echarts.Table()
        table.add(headers=list(columns), rows=[[row[column] for column in columns] for row in rows])
        self.run.log({name: table}, step=step)

    def finish(self) -> None:
        """Close the run."""
        self.run.finish()


class Mlflow:
    """A run of MLflow: at ``MLFLOW_TRACKING_URI``, else in a database next to the runs."""

    def __init__(self, place: Place):
        import mlflow
        from verl.utils.tracking import _MlflowLoggingAdapter

        outputs = place.run_dir.parent
        address = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(address or f"sqlite:///{outputs / 'mlflow.db'}")
        if not address and mlflow.get_experiment_by_name(place.project) is None:
            mlflow.create_experiment(place.project, artifact_location=(outputs / "mlflow_files").as_uri())
        experiment = mlflow.set_experiment(place.project)
        run_id = place.known.get("id") or os.environ.get("MLFLOW_RUN_ID")  # the second one is set by some clouds
        if run_id:
            self.run = mlflow.start_run(run_id=run_id)
        else:
            tags = {"kit.run": place.run_id, "kit.tags": ",".join(place.tags)}
            self.run = mlflow.start_run(experiment_id=experiment.experiment_id, run_name=place.name, tags=tags)
        if not place.known:  # a parameter cannot change, so those of later attempts are files only
            mlflow.log_params({name: str(value)[:500] for name, value in place.knobs.items()})
        mlflow.log_dict(dict(place.config), f"config.{os.environ.get('ATTEMPT', '1')}.json")
        self._verl = _MlflowLoggingAdapter()
        place.note(id=self.run.info.run_id)

    def log(self, row: dict[str, float], step: int) -> None:
        """Log a row of `rows.row_of`."""
        self._verl.log(row, step)

    def samples(self, rows: list[dict[str, Any]], step: int) -> None:
        """Log answers of a validation, rows of `rows.samples_of`."""
        import mlflow

        mlflow.log_table({name: [row[name] for row in rows] for name in COLUMNS}, f"samples/{step}.json")

    def files(self, charts: Sequence[Path], compared: list[dict[str, Any]], step: int) -> None:
        """Send the final charts, and rows of `rows.comparison`, as of the last step."""
        import mlflow

        for path in charts:
            mlflow.log_artifact(str(path), "charts")
        mlflow.log_dict({"comparison": compared}, "comparison.json")

    def finish(self) -> None:
        """Close the run."""
        self._verl.finish()


class Trackio:
    """A run of trackio, by name."""

    def __init__(self, place: Place):
        import trackio

        self.trackio = trackio
        name = place.known.get("id", place.name)
        trackio.init(project=place.project, name=name, resume="allow", config={"knobs": dict(place.knobs)}, embed=False)
        place.note(id=name)

    def log(self, row: dict[str, float], step: int) -> None:
        """Log a row of `rows.row_of`."""
        self.trackio.log(row, step=step)

    def samples(self, rows: list[dict[str, Any]], step: int) -> None:
        """Log answers of a validation, rows of `rows.samples_of`."""
        self._table("val/samples", rows, step)

    def files(self, charts: Sequence[Path], compared: list[dict[str, Any]], step: int) -> None:
        """Send the final charts, and rows of `rows.comparison`, as of the last step."""
        self._table("comparison", compared, step)
        for path in charts:
            self.trackio.log({f"charts/{path.stem}": self.trackio.Image(str(path))}, step=step)

    def _table(self, name: str, rows: list[dict[str, Any]], step: int) -> None:
        import pandas as pd

        self.trackio.log({name: self.trackio.Table(dataframe=pd.DataFrame(rows))}, step=step)

    def finish(self) -> None:
        """Close the run."""
        self.trackio.finish()


class ClearML:
    """A task of ClearML."""

    def __init__(self, place: Place):
        import clearml

        # It sends from a forked process, which hangs for ever where another thread (Ray's, SwanLab's) held a lock; a
        # thread does as well. What clearml.conf calls sdk.development.report_use_subprocess has no other name here.
        clearml.Task._report_subprocess_enabled = False
        known = place.known.get("id")
        self.task = clearml.Task.init(
            project_name=place.project,
            task_name=place.name,
            tags=list(place.tags),
            reuse_last_task_id=known or False,
            continue_last_task=0 if known else False,  # 0: steps are not moved by those of the attempt before
            output_uri=False,
            auto_connect_frameworks=False,
        )
        self.task.connect_configuration(dict(place.config), name="Hyperparameters")
        self.task.connect(dict(place.knobs), name="knobs")
        place.note(id=self.task.id)

    def log(self, row: dict[str, float], step: int) -> None:
        """Log a row of `rows.row_of`."""
        for key, value in row.items():
            title, _, series = key.partition("/")
            self.task.get_logger().report_scalar(title, series or title, value, step)

    def samples(self, rows: list[dict[str, Any]], step: int) -> None:
        """Log answers of a validation, rows of `rows.samples_of`."""
        import pandas as pd

        self.task.get_logger().report_table("val", "samples", step, table_plot=pd.DataFrame(rows))

    def files(self, charts: Sequence[Path], compared: list[dict[str, Any]], step: int) -> None:
        """Send the final charts, and rows of `rows.comparison`, as of the last step."""
        import pandas as pd

        for path in charts:
            self.task.get_logger().report_image("charts", path.stem, step, local_path=str(path))
        self.task.get_logger().report_table("comparison", "comparison", step, table_plot=pd.DataFrame(compared))

    def finish(self) -> None:
        """Close the run."""
        self.task.close()


BACKENDS = {"wandb": Wandb, "swanlab": SwanLab, "mlflow": Mlflow, "trackio": Trackio, "clearml": ClearML}
