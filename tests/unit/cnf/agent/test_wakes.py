"""Who is woken by what: the whole table, and that both its sides are in use."""

from __future__ import annotations

import ast
import pathlib
from typing import cast
from unittest import mock

import pytest

import cnf
from cnf.agent import parts
from cnf.agent.caches import Caches
from cnf.agent.wakes import WORK_BY_SOURCE, AgentSource, AgentWork, WorkQueues
from cnf.controllers.services import PendingChanges
from fleetboard.kube.controller import SINGLE

EXPECTED = {
    AgentSource.START: {AgentWork.STATUS, AgentWork.ATTACHMENTS},
    AgentSource.MESH: {AgentWork.TUNNEL, AgentWork.BLOCKS, AgentWork.STATUS, AgentWork.SERVICES},
    AgentSource.STATUS_ONLY: {AgentWork.STATUS},
    AgentSource.ZONE: {AgentWork.SERVICES},
    AgentSource.SERVICE: {AgentWork.SERVICES},
    AgentSource.ENDPOINTS: {AgentWork.SERVICES},
    AgentSource.CLAIM: {AgentWork.BLOCKS},
    AgentSource.POD: {AgentWork.LATECOMERS},
    AgentSource.LEADERSHIP: {AgentWork.TUNNEL, AgentWork.BLOCKS, AgentWork.STATUS},
    AgentSource.NETWORK: {AgentWork.STATUS},
    AgentSource.ISOLATION: {AgentWork.SERVICES, AgentWork.STATUS},
    AgentSource.ATTACHMENT: {AgentWork.ATTACHMENTS, AgentWork.STATUS},
}


@pytest.mark.parametrize("source", AgentSource)
def test_a_source_wakes_whom_it_concerns_and_nobody_else(source: AgentSource) -> None:
    work_queues = WorkQueues()

    work_queues.wake(source)

    assert {work for work in AgentWork if len(work_queues.queue(work))} == EXPECTED[source]


def test_what_changed_is_remembered_before_anybody_is_woken() -> None:
    seen: list[int] = []
    work_queues = WorkQueues(
        {AgentSource.SERVICE: lambda _key: seen.append(len(work_queues.queue(AgentWork.SERVICES)))}
    )

    work_queues.wake(AgentSource.SERVICE, "default/web")

    assert seen == [0]
    assert work_queues.queue(AgentWork.SERVICES).get() == SINGLE


def test_services_are_planned_from_what_was_remembered_once() -> None:
    pending = PendingChanges()
    work_queues = WorkQueues(pending.recorders)
    pending.mesh = False

    work_queues.wake(AgentSource.SERVICE, "fleetboard-system/default.web")
    work_queues.wake(AgentSource.ENDPOINTS, "default/web-c2")
    assert not pending.mesh
    work_queues.wake(AgentSource.ZONE)

    assert pending.mesh
    assert pending.take() == ({"fleetboard-system/default.web"}, {"default/web-c2"})
    assert pending.take() == (set(), set())


def test_all_work_has_a_controller_that_takes_it_from_its_queue() -> None:
    work_queues, anything = WorkQueues(), mock.MagicMock()
    workers = parts.build_workers(work_queues, cast("Caches", anything), cast("parts.Controllers", anything))

    assert {*workers} == {*AgentWork}
    for work, worker in workers.items():
        worker.enqueue(SINGLE)
        assert work_queues.queue(work).get() == SINGLE


def test_all_work_is_woken_and_all_sources_are_raised() -> None:
    raised = {
        argument.attr
        for path in pathlib.Path(*cnf.__path__).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        for argument in call.args
        if isinstance(argument, ast.Attribute)
        and isinstance(argument.value, ast.Name)
        and argument.value.id == "AgentSource"
    }

    assert {source.name for source in AgentSource} == {source.name for source in WORK_BY_SOURCE} == raised
    assert {work for woken in WORK_BY_SOURCE.values() for work in woken} == {*AgentWork}
