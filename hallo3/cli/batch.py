"""``hallo3 batch``: a table of videos, on one worker or many, with the options of ``hallo3 animate``."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from dataclasses import replace
from functools import partial

import torch

from ..errors import Hallo3Error, InputError, describe_error
from ..fleet.dispatch import DONE, FINAL, REFUSED, Dispatcher, Task
from ..fleet.ledger import LEDGER_FILENAME, Ledger
from ..fleet.ray_workers import RayWorkers
from ..fleet.workers import DIED, ENDED, NOTE, InProcess, Processes, Render, StopRow, Workers, run_tasks
from ..messages import logger, redirect_messages
from ..offload.system_memory import total_bytes
from ..progress import FollowShare
from ..units import GB, format_bytes, format_duration
from .animate import plan_run, run_animate
from .batch_view import BatchView, list_rows
from .options import AUTO, AnimateOptions, BatchOptions
from .places import JOBS_DIR
from .request import read_request
from .row_files import RowFiles, row_key
from .session import IDENTITY, MEMORY_PLAN, MODELS, Session
from .table import Row, parse_rows, read_table

LOADED = "model", "dtype", "device", "vram", "offload", "low_memory", "attention", "kernels", "trial", "steps"
"""Options that decide what is loaded, and how."""
CHECKED_ROWS, ALONE, MAX_CHECKERS = 100, 5, 8
"""Rows of a part; parts that this process checks alone; and processes for more."""
COST_BYTES = 1 << 16
"""Of sound: what a row costs beside its own."""


def run_batch(options: BatchOptions) -> int:
    """The exit code. Raises ``InputError`` for a table that cannot be read, or a shard that is none."""
    rest, shards = _parse_shard(options.shard)
    rows = [*parse_rows(read_table(options.table), options)]
    mine = [row for row in rows if row.number % shards == rest]
    if options.check:
        return _check(mine, len(rows), options)
    if options.plan:
        return _plan(mine, len(rows), options)
    return _render(mine, len(rows), options)


def _parse_shard(text: str) -> tuple[int, int]:
    """``i/N`` -> the rest that a row's number leaves, and N."""
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise InputError(
            "The shard cannot be read.",
            found=f"--shard {text}",
            expected="i/N, with i from 1 to N",
            fix="--shard 2/8 is the second of eight parts of the table",
        )
    return int(match[1]) % int(match[2]), int(match[2])


def _render(rows: list[Row], total: int, options: BatchOptions) -> int:
    jobs = options.jobs_folder or (options.output or options.table.parent) / JOBS_DIR
    ledger, files, tasks = Ledger(jobs / LEDGER_FILENAME), RowFiles(), list[Task]()
    before = dict[int, list[object]]()
    with BatchView(total, as_json=options.json) as view:
        for row in rows:
            if row.options is None:
                view.end(row.number, REFUSED, row.fault)
                continue
            key, (inputs, outputs) = row_key(row.options), files.look(row.options)
            if not row.options.fresh and ledger.knows(key, [inputs, outputs]):
                view.skip()
                continue
            before[row.number] = inputs
            cost = float(COST_BYTES + files.size(row.options.speech))
            tasks.append(
                Task(number=row.number, key=key, group=_group(row.options), cost=cost, payload=row.options)
            )
        dispatcher = Dispatcher(tasks)
        workers, count = _open_workers(options)
        with redirect_messages(view.note), closing(run_tasks(dispatcher, workers, count)) as events:
            for event in events:
                view.show(event, dispatcher)
                if event.kind == ENDED and event.state is not None and event.state.kind == DONE:
                    task = event.state.task
                    inputs, outputs = RowFiles().look(task.payload)
                    if inputs == before[task.number]:
                        ledger.note(task.key, [inputs, outputs])
        return view.finish()


def _group(options: AnimateOptions) -> tuple[str, str]:
    """Rows whose groups begin with the same share models; with equal ones the identity too."""
    loaded = [str(getattr(options, name)) for name in LOADED]
    loaded += [str(sorted(options.files.items())), str(bool(options.prompt.strip() or options.script))]
    return "\n".join(loaded), str(options.identity or options.portrait)


def _open_workers(options: BatchOptions) -> tuple[Workers, int]:
    on_cuda = options.device in (AUTO, "cuda")
    devices = [f"cuda:{n}" for n in range(torch.cuda.device_count() if on_cuda else 0)]
    count = max(1, len(devices)) if options.workers is None else options.workers
    if count < 1:
        raise InputError(
            "There is no such number of workers.",
            found=f"--workers {count}",
            expected="1 or more",
            fix="--workers 2 renders two rows at once",
        )
    if options.ray is not None:
        opened = partial(open_render, devices=(), threads=0)
        ray = RayWorkers(opened, options.ray, count=options.workers, gpu_share=_gpu_share(options))
        return ray, ray.count
    if options.workers is None and count == 1:
        return InProcess(partial(open_render, devices=(), threads=0)), 1
    threads = 0 if devices else max(1, torch.get_num_threads() // count)
    return Processes(partial(open_render, devices=tuple(devices), threads=threads)), count


def _gpu_share(options: BatchOptions) -> float:
    """Of a GPU like that of this computer, for a worker under ``--vram``."""
    if not isinstance(options.vram, float) or not torch.cuda.is_available():
        return 1.0
    return 1 / max(1, int(total_bytes(torch.device("cuda")) // (options.vram * GB)))


def open_render(place: int, devices: tuple[str, ...], threads: int) -> Render:
    """What the worker at ``place`` renders rows with, on its device of these."""
    if threads:
        torch.set_num_threads(threads)
    return _RowRenderer(devices[place % len(devices)] if devices else "")


class _RowRenderer:
    """Keeps what a row has loaded for the next."""

    def __init__(self, device: str) -> None:
        self._device, self._session = device, Session()

    def __call__(self, task: Task, follow: FollowShare) -> str:
        options: AnimateOptions = task.payload
        if self._device:
            options = replace(options, device=self._device)
        if task.smaller:  # exact, and the same job
            options = replace(options, low_memory=True, vram=None)
        try:
            return render_row(options, follow, self._session)
        except StopRow:
            raise
        except BaseException:
            self._session.drop(MODELS, IDENTITY, MEMORY_PLAN)
            raise


def render_row(options: AnimateOptions, follow: FollowShare, session: Session) -> str:
    """What ``animate`` prints of it."""
    assert options.output is not None
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(io.StringIO()) as printed:
        run_animate(options, follow, session)
    return printed.getvalue().rstrip()


def _each(rows: list[Row], look: Callable[[AnimateOptions], None]) -> dict[int, str]:
    """What is wrong with rows, by their numbers; those that share files come one after the other."""
    faults = {row.number: row.fault for row in rows if row.options is None}
    whole = [(_group(row.options), row.number, row.options) for row in rows if row.options is not None]
    for _, number, options in sorted(whole, key=lambda each: each[:2]):
        try:
            look(replace(options, plan=True, chart=None, save_identity=None, preview=None, speech_chart=None))
        except Hallo3Error as error:
            faults[number] = str(error)
        except Exception as error:
            faults[number] = describe_error(error)
    return faults


def _check(rows: list[Row], total: int, options: BatchOptions) -> int:
    """Everything that a run would refuse, before it renders; of a long table in a process per core."""
    whole = [row for row in rows if row.options is not None]
    whole.sort(key=lambda row: (_group(row.options) if row.options else (), row.number))
    parts = [whole[start : start + CHECKED_ROWS] for start in range(0, len(whole), CHECKED_ROWS)]
    tasks = [
        Task(number=number, key="", group=(), cost=float(len(part)), payload=part)
        for number, part in enumerate(parts)
    ]
    count = min(os.cpu_count() or 1, MAX_CHECKERS, len(parts))
    is_long = len(parts) > ALONE
    workers = (Processes if is_long else InProcess)(partial(open_check, threads=int(is_long)))
    faults, told = {row.number: row.fault for row in rows if row.options is None}, set[str]()
    events = run_tasks(Dispatcher(tasks), workers, count if is_long else 1)
    with closing(events):
        for event in events:
            if event.kind == NOTE and event.text not in told:
                told.add(event.text)
                logger.warning(event.text)
            state = event.state
            if event.kind in (ENDED, DIED) and state is not None and state.kind in FINAL:
                if state.kind == DONE:
                    faults |= dict(json.loads(state.message))
                else:
                    faults |= {row.number: state.message for row in state.task.payload}
    return _list_faults(faults, len(rows), total, options)


def open_check(place: int, threads: int) -> Render:
    """What checks the rows of a task; returns their numbers and faults as JSON."""
    del place
    session = Session()
    if threads:
        torch.set_num_threads(threads)

    def look(row: AnimateOptions) -> None:
        request = read_request(row, session)
        if request.subject.identity is None:
            _ = request.subject.portrait

    return lambda task, _: json.dumps([*_each(task.payload, look).items()])


def _list_faults(faults: dict[int, str], rows: int, total: int, options: BatchOptions) -> int:
    """Each fault once, with the numbers of its rows; the exit code."""
    by_text = dict[str, list[int]]()
    for number, text in sorted(faults.items()):
        by_text.setdefault(text, []).append(number)
    for text, numbers in by_text.items():
        if options.json:
            print(json.dumps({"event": "fault", "rows": numbers, "text": text}))
        else:
            print(f"row{'s' * (len(numbers) > 1)} {list_rows(numbers)} of {total}: {text}")
    if not options.json:
        print(f"{rows - len(faults)} of {rows} rows are fine" + f", {len(faults)} are not" * bool(faults))
    return 0 if not faults else 1 if len(faults) < rows else 2


def _plan(rows: list[Row], total: int, options: BatchOptions) -> int:
    """A line per row, and the bill of all."""
    session, unknown = Session(), 0
    sums = dict.fromkeys(("segments", "frames", "network_evaluations", "disk", "video"), 0)
    seconds, computing, ram = 0.0, 0.0, 0

    def look(row: AnimateOptions) -> None:
        nonlocal seconds, computing, ram, unknown
        facts = plan_run(read_request(row, session)).as_dict()
        for name in sums:
            sums[name] += facts[name]
        seconds, ram = seconds + facts["seconds"], max(ram, facts["memory"])
        time = facts["render_seconds"]
        computing, unknown = computing + (time or 0.0), unknown + (time is None)
        if options.json:
            print(json.dumps({"event": "plan", "video": str(row.output), **facts}))
        else:
            about = format_duration(time) if time is not None else "unknown"
            print(
                f"{row.output}: {facts['segments']} segments, {facts['seconds']:.2f} s, "
                f"disk {format_bytes(facts['disk'])}, time {about}"
            )

    faults = _each(rows, look)
    if options.json:
        bill = {"seconds": seconds, "memory": ram, "render_seconds": computing, "unknown_time": unknown}
        print(json.dumps({"event": "bill", "rows": len(rows) - len(faults), **sums, **bill}))
    else:
        time = f"{format_duration(computing)} of computing" if computing else ""
        time += f"{', and ' * bool(computing)}{unknown} rows of unknown length" * bool(unknown)
        print(
            f"in all    {len(rows) - len(faults)} videos, {format_duration(seconds)}, "
            f"{sums['segments']} segments, {sums['network_evaluations']} evaluations of the network\n"
            f"disk      {format_bytes(sums['disk'])} with all jobs, {format_bytes(sums['video'])} of videos\n"
            f"memory    system RAM {format_bytes(ram)} per worker\n"
            f"time      {time}, by one worker"
        )
    return _list_faults(faults, len(rows), total, options)
