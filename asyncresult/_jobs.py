"""The tasks of an Executor, from acceptance to the final state.

Each accepted task is one asyncio task of its own. It waits for the handles among its arguments, then for a slot, then
runs under a :class:`.worker.TaskContext`; :meth:`Job.abort` is the one place that decides what can be revoked when.

What all of them share belongs to one ``async with Executor(…)``, and to its event loop: a :class:`Session`.

anyio, from which threads are borrowed, is imported for the first plain function.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import inspect
import random
import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from . import _background
from ._calls import Options, is_coroutine_function, may_be_ctrl_c, with_values
from ._handles.result import AsyncResult
from ._log import Log, get_logger
from ._storage.keys import HISTORY
from ._storage.store import Store, engine_of
from .control import Revocation
from .errors import AsyncResultError, BackendClosed
from .states import FAILURE, REVOKED
from .worker import TaskContext, traceback_text

if TYPE_CHECKING:
    import anyio

    from ._processes import WorkerProcess

__all__ = ["Job", "JobContext", "Session"]

logger: Log = get_logger("asyncresult")

T = TypeVar("T")

#: Seconds between two attempts at most, however often the delay was doubled.
BACKOFF_LAST = 300.0


class JobContext(TaskContext):
    """The context of a job, which listens for requests itself, and waits for the store as long as it takes."""

    listens = False
    patient = True
    #: Called when the final state is about to be stored.
    on_over: Callable[[], object] = staticmethod(lambda: None)
    #: Around what the function waits for while the store is away.
    storing: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    async def _start(self) -> None:
        with self.storing():
            await super()._start()

    async def retry(self, exc: BaseException | None = None) -> None:
        with self.storing():
            await super().retry(exc)

    def _store_last(self, result: Any, state: str, traceback: str | None) -> asyncio.Future[bool]:
        future = super()._store_last(result, state, traceback)
        self.on_over()
        return future


class Session:
    """What the jobs of one ``async with Executor(…)`` share.

    Attributes:
        pending: Jobs that wait for their turn.
        unfinished: Jobs whose function is not over. The others only have their final state to store.
        storing: Of those, the ones that have begun and go on when a state of theirs is stored.
        jobs: Jobs without a final state, by task id.
    """

    def __init__(self, backend: Store, concurrency: int) -> None:
        self.backend = backend
        self.loop = asyncio.get_running_loop()
        self.pending = 0
        self.unfinished = 0
        self.storing = 0
        self.jobs: dict[str, Job] = {}
        self.slots = asyncio.Semaphore(concurrency)
        self._concurrency = concurrency
        self._limiter: anyio.CapacityLimiter | None = None
        self._changed = asyncio.Event()
        self._idle_processes: list[WorkerProcess] = []
        # The handles of failures that nobody has looked at, and the ids of those that are gone.
        self._unlooked: dict[str, weakref.ref[AsyncResult[Any]]] = {}
        self._dropped: collections.deque[str] = collections.deque()

    def changed(self) -> None:
        """One of the counts has changed."""
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition``, of the counts, is true."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    @contextlib.contextmanager
    def while_storing(self) -> Generator[None]:
        """For a job that has begun, and cannot go on before the store has taken a state."""
        self.storing += 1
        self.changed()
        try:
            yield
        finally:
            self.storing -= 1
            self.changed()

    # -- the end ----------------------------------------------------------------------------------------

    def abort(self, *, started: bool = True) -> None:
        """Cancel what waits, and what is started too unless ``started`` is False."""
        for job in list(self.jobs.values()):
            if started or not job.started:
                job.abort("cancelled", terminate=True)

    async def finish(self, timeout: float) -> None:
        """Wait until all jobs are over, then up to ``timeout`` seconds until their final states are stored.

        If all that the jobs wait for is a store, and for so many seconds in vain, they are aborted. So they are by a
        cancellation; it is raised again when they have ended, but that may take ``timeout`` seconds too.
        """
        try:
            while self.unfinished:
                try:
                    async with asyncio.timeout(timeout if self._only_stores() else None):
                        self._changed.clear()
                        await self._changed.wait()
                except TimeoutError:
                    await self.finish_aborted(timeout)
                    return
            await self._wait_for_tasks(timeout)
        except asyncio.CancelledError:
            await self.finish_aborted(timeout)
            raise

    async def finish_aborted(self, timeout: float) -> None:
        """Abort all jobs. What has not ended after ``timeout`` seconds is left behind, as REVOKED."""
        self.abort()
        deadline = self.loop.time() + timeout
        interrupted: asyncio.CancelledError | None = None
        while self.jobs and (left := deadline - self.loop.time()) > 0:
            try:
                await self._wait_for_tasks(left)
            except asyncio.CancelledError as error:
                interrupted = error  # once more: what is accepted still is to have a final state
        for job in list(self.jobs.values()):
            job.abandon()
        if interrupted is not None:
            raise interrupted

    def _only_stores(self) -> bool:
        """Whether no function runs, nor pauses before it is tried again: those that wait for a slot do not count."""
        return 0 < self.storing == self.unfinished - self.pending

    async def _wait_for_tasks(self, timeout: float) -> None:
        if self.jobs:
            await asyncio.wait([job.task for job in self.jobs.values()], timeout=timeout)

    async def close(self) -> None:
        """Let go of the processes, and report what was left over."""
        if self._idle_processes:
            processes, self._idle_processes = self._idle_processes, []
            await self.in_thread(functools.partial(_close_all, processes))
        for id, ref in self._unlooked.items():
            handle = ref()
            if handle is None or not handle.done():
                self._report_unseen(id)
        self._unlooked.clear()
        if self.jobs:
            some = ", ".join(list(self.jobs)[:3])
            about = {"event": "tasks left behind", "backend": str(self.backend)}
            logger.error("%d tasks did not end in time and were left behind: %s …", len(self.jobs), some, extra=about)

    # -- for the jobs -----------------------------------------------------------------------------------

    async def in_thread(self, fn: Callable[[], T]) -> T:
        import anyio
        import anyio.to_thread

        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._concurrency)
        return await anyio.to_thread.run_sync(fn, limiter=self._limiter)

    def take_process(self) -> WorkerProcess:
        from ._processes import WorkerProcess

        while self._idle_processes:
            worker = self._idle_processes.pop()
            if worker.alive:
                return worker
        return WorkerProcess()

    def give_back(self, worker: WorkerProcess) -> None:
        if worker.alive:
            self._idle_processes.append(worker)

    def failed(self, id: str, ref: weakref.ref[AsyncResult[Any]], error: BaseException) -> None:
        """Log a failure that nobody can look at any more; remember one that somebody still may."""
        handle = ref()
        if handle is None:
            _report(self.backend, id, traceback_text(error))
        elif handle._table is None and not handle.done():
            self.backend.unseen_failures[id] = traceback_text(error)  # until a handle of this id learns of it
            self._unlooked[id] = weakref.ref(handle, functools.partial(self._handle_dropped, id))
        self._report_dropped()

    def _handle_dropped(self, id: str, _: object) -> None:
        self._dropped.append(id)
        _background.call_from_finalizer(self.loop, self._report_dropped)

    def _report_dropped(self) -> None:
        while self._dropped:
            id = self._dropped.popleft()
            if self._unlooked.pop(id, None) is not None:
                self._report_unseen(id)

    def _report_unseen(self, id: str) -> None:
        text = self.backend.unseen_failures.pop(id, None)
        if text is not None:
            _report(self.backend, id, text)


def _close_all(processes: list[WorkerProcess]) -> None:
    for worker in processes:
        worker.close()


def _report(backend: Store, id: str, text: str) -> None:
    about = {"event": "failure unseen", "backend": str(backend), "task_id": id}
    logger.error("task %s failed, and nobody has looked at its result:\n%s", id, text, extra=about)


class Job:
    """One accepted task."""

    def __init__(
        self,
        session: Session,
        context: JobContext,
        options: Options,
        call: functools.partial[Any],
        handle: AsyncResult[Any],
    ) -> None:
        self.started = False
        self._begun = self._over = self._awaited = False
        self._session = session
        self._context = context
        self._options = options
        self._call = call
        self._handle = weakref.ref(handle)
        self._stop: Callable[[], object] | None = None  # stops a function in a thread or process
        # At once, so that no reader of the new handle is faster.
        self._forgetting = self._forget_earlier_run() if options.task_id is not None else None
        self._revocation = Revocation(
            session.backend,
            context.id,
            context.request.hostname,
            lambda terminate: self.abort("terminated" if terminate else "revoked", terminate=terminate),
        )
        session.jobs[context.id] = self
        session.pending += 1
        session.unfinished += 1
        context.on_over = self._function_over
        context.storing = session.while_storing
        self.task = asyncio.create_task(self._run(), name=f"asyncresult task {context.id}")
        self.task.add_done_callback(self._ended)  # runs also if the task was cancelled before its first step

    def _forget_earlier_run(self) -> asyncio.Future[int]:
        backend, id = self._session.backend, self._context.id
        keys = [backend.task_key(id), backend.key_beside(id, HISTORY)]
        future = engine_of(backend).delete(keys, forever=True)
        what = f"task {id}: its earlier run"
        about = {"event": "not deleted", "backend": str(backend), "task_id": id}
        future.add_done_callback(functools.partial(_background.log_failure, what=what, about=about))
        return future

    def abort(self, reason: str, *, terminate: bool) -> tuple[bool, str]:
        """Keep the task from running, or from running on. Returns whether it will stop, and why (for the reply)."""
        context = self._context
        if context.revoked is not None or context.over:
            return context.revoked is not None, context.revoked or "is over"
        if self._stop is not None and self._options.process and not terminate:
            return False, "runs in a process, which only terminate=True ends"
        context.revoked = reason
        if self._stop is not None:
            self._stop()
            return True, reason if self._options.process else "asked to stop: it runs in a thread"
        if self._begun:  # before its first step a task that is cancelled runs no 'finally'; it looks itself
            self.task.cancel()
        return True, reason

    def abandon(self) -> None:
        """Let go of it: it does not stop, or its final state cannot be stored."""
        if not self._context.over:
            self._end_revoked_unattended()
        self.task.cancel()

    # -- its life -----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        self._begun = True
        context = self._context
        try:
            if context.revoked is None:
                await self._wait_and_run()
            else:
                await context.end_revoked()
        except asyncio.CancelledError as error:
            if context.over:
                return
            if self._is_cancelled():
                await context.end_revoked()
            else:
                await self._end_failed(error)
        except GeneratorExit:
            raise  # this coroutine is being closed
        except BaseException as error:
            if context.over and not isinstance(error, BackendClosed):
                self._note_failure(error)
            elif not context.over:
                await self._end_failed(error)
            if may_be_ctrl_c(error):
                raise

    def _is_cancelled(self) -> bool:
        """Whether a CancelledError means this job. Otherwise it comes from something else that it awaited."""
        return self._context.revoked is not None or self.task.cancelling() > 0

    async def _end_failed(self, error: BaseException) -> None:
        if may_be_ctrl_c(error):
            self._context.end_unattended(error, FAILURE)
            return
        try:
            await self._context.end_failed(error)
        except AsyncResultError as stored:
            about = {"event": "not stored", "backend": str(self._session.backend), "task_id": self._context.id}
            logger.error("task %s failed, which could not be stored: %s", self._context.id, stored, extra=about)
        self._note_failure(error)

    def _note_failure(self, error: BaseException) -> None:
        if not self._awaited:
            self._session.failed(self._context.id, self._handle, error)

    def _function_over(self) -> None:
        if not self._over:
            self._over = True
            handle = self._handle()
            # Checked now: who waits gets the result, and may drop the handle, before the store of it is confirmed.
            self._awaited = handle is not None and handle._table is not None
            self._session.unfinished -= 1
            self._session.changed()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self._context.over:
            self._end_revoked_unattended()
        self._function_over()
        del self._context.on_over  # else the call and its arguments stay until the garbage collector comes
        self._revocation.close()
        if not self.started:
            self._session.pending -= 1
        del self._session.jobs[self._context.id]
        self._session.changed()

    def _end_revoked_unattended(self) -> None:
        self._context.revoked = self._context.revoked or "cancelled"
        self._context.end_unattended(self._context._revoked_error(), REVOKED)

    async def _wait_and_run(self) -> None:
        context, slots = self._context, self._session.slots
        try:
            async with asyncio.timeout(self._options.expires):
                if self._forgetting is not None:
                    await self._forgetting
                call = await with_values(self._call)
                await slots.acquire()
        except TimeoutError:  # an argument's own comes as TaskFailed
            context.revoked = "expired"
            await context.end_revoked()
            return
        self.started = True
        self._session.pending -= 1
        self._session.changed()
        delay = self._options.backoff
        while True:
            try:
                if await self._attempt(call):
                    return
            finally:
                slots.release()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, BACKOFF_LAST)
            await slots.acquire()

    async def _attempt(self, call: functools.partial[Any]) -> bool:
        """Run the function once, under the task's context. False if it is to be tried again."""
        context = self._context
        async with context:
            try:
                value = await self._outcome(call)
            except self._options.retry_on as error:
                if context.request.retries >= self._options.retries or context.revoked is not None:
                    raise
                await context.retry(error)
                return False
            except Exception:
                raise
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) and self._is_cancelled():
                    raise
                if isinstance(error, GeneratorExit) and asyncio.current_task(self._session.loop) is not self.task:
                    raise  # this coroutine is being closed
                # The function's own. It ends the task; let through, it would end the event loop or this coroutine.
                await self._end_failed(error)
                if may_be_ctrl_c(error):
                    raise
                return True
            context.set_result(value)
        return True

    # -- the function ---------------------------------------------------------------------------------------

    async def _outcome(self, call: functools.partial[Any]) -> Any:
        if is_coroutine_function(call.func):
            outcome = call()
        elif self._options.process:
            return await self._in_process(call)
        else:
            outcome = await self._in_thread(call)
            if not inspect.iscoroutine(outcome):
                return outcome
        limit = asyncio.timeout(self._options.timeout)
        try:
            async with limit:
                return await outcome
        except TimeoutError as error:
            if limit.expired():
                raise self._timed_out() from error
            raise

    async def _in_thread(self, call: functools.partial[Any]) -> Any:
        """In a worker thread; requested to end when the time is up or it is revoked."""
        import anyio

        with anyio.move_on_after(self._options.timeout) as scope:
            self._stop = scope.cancel
            try:
                return await self._session.in_thread(call)
            finally:
                self._stop = None
        if self._context.revoked is not None:
            raise asyncio.CancelledError(self._context.revoked)
        raise self._timed_out()

    async def _in_process(self, call: Callable[[], Any]) -> Any:
        """In a worker process, which is killed when the time is up or it is revoked."""
        from anyio import BrokenWorkerProcess

        probe = self._session.backend.probe
        if probe is not None:
            call = probe.for_process(call)
        worker = self._session.take_process()
        late = False

        def time_is_up() -> None:
            nonlocal late
            late = True
            worker.kill()

        timeout = self._options.timeout
        timer = self._session.loop.call_later(timeout, time_is_up) if timeout is not None else None
        self._stop = worker.kill
        try:
            value, failure = await self._session.in_thread(functools.partial(worker.run, call))
        except BrokenWorkerProcess:
            if self._context.revoked is not None:
                raise asyncio.CancelledError(self._context.revoked) from None
            if late:
                raise self._timed_out() from None
            raise
        except asyncio.CancelledError:
            worker.kill()  # the thread that waits for it then ends, too
            raise
        finally:
            self._stop = None
            if timer is not None:
                timer.cancel()
            self._session.give_back(worker)
        if failure is not None:
            error = self._session.backend.codec.exception(failure)
            assert error is not None
            raise error
        return value

    def _timed_out(self) -> TimeoutError:
        return TimeoutError(f"the task did not end within {self._options.timeout} s")
