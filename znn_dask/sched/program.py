"""A compiled graph that can be run again and again, with different inputs."""

from collections.abc import Hashable, Mapping
from typing import Any

from dask.callbacks import Callback
from dask.task_spec import DataNode

from znn_dask.errors import ParameterError
from znn_dask.sched.chain import Chain
from znn_dask.sched.compile import compile_tables
from znn_dask.sched.crew import Crew
from znn_dask.sched.evaluate import check_inputs, evaluate
from znn_dask.sched.graph import Key, Nodes, flatten
from znn_dask.sched.observe import evaluate_observed
from znn_dask.sched.policies import Policy, Priority
from znn_dask.sched.tables import Tables


class Program:
    """A compiled graph; `Scheduler.compile` makes it.

    Attributes
    ----------
    tables : Tables
        The compiled form; see `verify`.
    inputs : tuple of keys
        Keys that the graph refers to without giving them; `run` needs a value for each.
    """

    def __init__(
        self,
        nodes: Nodes,
        keys: Any,
        policy: Policy,
        priority: Priority,
        crew: Crew,
        n_workers: int,
        seconds: Mapping[Hashable, float] | None = None,
    ) -> None:
        self.tables: Tables = compile_tables(nodes, keys, policy, priority, seconds=seconds)
        self.inputs: tuple[Key, ...] = tuple(self.tables.inputs)
        self._nodes = nodes
        self._keys = keys
        self._policy = policy
        self._priority = priority
        self._seconds = seconds
        self._crew = crew
        self._n_workers = n_workers
        self._publishing: dict[tuple[Key, ...], Tables] = {}

    def run(self, inputs: Mapping[Key, Any] | None = None) -> Any:
        """Run the graph once. May be called from several threads at once.

        Parameters
        ----------
        inputs : mapping, optional
            A value for each key of `self.inputs`. The run never writes into one, and forgets each after its last
            reader (the mapping itself keeps them, of course).

        Returns
        -------
        The results in the form of the requested keys, each list as a tuple.

        Raises
        ------
        ParameterError
            If an input is missing or unknown.
        BaseException
            What a task raised first, with its own traceback and a note that names the key.
        """
        given = {} if inputs is None else inputs
        if Callback.active:
            check_inputs(self.tables, given)
            nodes = {**self._nodes, **{key: DataNode(key, value) for key, value in given.items()}}
            order = self._policy, self._priority
            return evaluate_observed(nodes, self._keys, *order, self._crew, self._n_workers, seconds=self._seconds)
        return evaluate(self.tables, self._keys, given, self._crew, self._n_workers)

    def chain(self, links: Mapping[Key, Key]) -> Chain:
        """Return runs of this program that begin while the one before ends, each fed by the one before it.

        Parameters
        ----------
        links : mapping
            From inputs to the requested keys of the run before that they take their values from.

        Raises
        ------
        ParameterError
            If a link goes from a key that is not requested, or to what is no input.
        """
        requested = set(flatten(self._keys))
        for name, key in links.items():
            if name not in self.tables.inputs:
                raise ParameterError(f"{name!r} is no input of this program, so nothing can be handed on to it")
            if key not in requested:
                raise ParameterError(f"{key!r} is not among the program's keys, so it cannot be handed on to {name!r}")
        published = tuple(dict.fromkeys(links.values()))
        if published not in self._publishing:
            order = self._policy, self._priority
            self._publishing[published] = compile_tables(
                self._nodes, self._keys, *order, seconds=self._seconds, publish=published
            )
        return Chain(self._publishing[published], self._keys, links, self._crew, self._n_workers)

    @property
    def n_tasks(self) -> int:
        """How many tasks a run executes: parts and aliases cost none, a sum of n terms counts n - 1."""
        return self.tables.n_tasks

    def __repr__(self) -> str:
        return f"<Program: {self.n_tasks} tasks, {len(self.inputs)} inputs, {self._n_workers} workers>"
