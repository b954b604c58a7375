"""Whose turn it is: clients of one server, who is answered when, and whose sequence the engine holds."""

from __future__ import annotations

from harness.ipc import messages as m
from harness.ipc.connection import S
from tests.ipc_bench import answer, tokens


def test_clients_take_turns_and_one_waits_for_one_request_at_most(bench):
    greedy, late = bench.peer(), bench.peer()
    greedy.send(*[m.Generate([1, number], 2) for number in range(20)])
    for _ in range(3):
        bench.service.turn()
    late.send(m.Generate([2, 0], 2), m.Generate([2, 1], 2))
    bench.settle()
    order = [entry[1] for entry in bench.case.log if entry[0] == "prefill"]
    first = order.index([2, 0])
    assert first <= 2
    assert order[first + 2] == [2, 1]
    assert order[first + 3 :] == [[1, number] for number in range(first + 1, 20)]
    assert len([message for message in greedy.received() if isinstance(message, m.Finished)]) == 20


def test_sequences_of_two_clients_never_mix(bench):
    one, other = bench.peer(), bench.peer()
    one.send(m.Prefill([1, 2, 3], 4), m.Decode())
    other.send(m.Prefill([7, 8], 3), m.Decode(), m.Decode())
    bench.settle()
    assert tokens(one.received()) == answer([1, 2, 3], 4)[:2]
    assert other.received() == []
    one.send(m.Decode(), m.Decode())
    bench.settle()
    assert tokens(one.received()) == answer([1, 2, 3], 4)[2:]
    assert tokens(other.received()) == answer([7, 8], 3)


def test_a_holder_that_is_silent_while_others_wait_loses_its_sequence(bench):
    holder, other = bench.peer(), bench.peer()
    holder.send(m.Prefill([1, 2], 4))
    other.send(m.Generate([9], 1))
    bench.settle()
    assert other.received() == []
    bench.clock.ns += 10 * S + 1
    bench.settle()
    assert tokens(other.received()) == answer([9], 1)
    holder.send(m.Decode())
    bench.settle()
    assert [type(message) for message in holder.received()] == [m.Token, m.Counted, m.Failure]
    holder.send(m.Prefill([1, 2], 2), m.Decode())
    bench.settle()
    assert tokens(holder.received()) == answer([1, 2], 2)


def test_silence_costs_nothing_while_nobody_waits(bench):
    holder = bench.peer()
    holder.send(m.Prefill([1, 2], 3))
    bench.settle()
    bench.clock.ns += 1000 * S
    holder.send(m.Decode())
    bench.settle()
    assert tokens(holder.received()) == answer([1, 2], 2)


def test_a_holder_that_goes_leaves_the_engine_to_others(bench):
    holder, other = bench.peer(), bench.peer()
    holder.send(m.Prefill([1, 2], 4))
    other.send(m.Generate([9], 1))
    bench.settle()
    holder.socket.close()
    bench.settle()
    assert tokens(other.received()) == answer([9], 1)


def test_nobody_goes_on_with_the_sequence_of_another(bench):
    one, other = bench.peer(), bench.peer()
    one.send(m.Generate([1, 2, 3], 2))
    bench.settle()
    other.send(m.Decode())
    bench.settle()
    (told,) = other.received()
    assert (told.kind, "no sequence of this client" in told.message) == ("invalid", True)


def test_status_is_answered_while_the_engine_works_for_another(bench):
    holder, busy, asker = bench.peer(), bench.peer(), bench.peer()
    holder.send(m.Prefill([1], 2))
    bench.settle()
    busy.send(m.Generate([5], 3), m.Generate([6], 3))
    bench.clock.ns += S
    asker.send(m.GetStatus())
    bench.settle()
    (found,) = asker.received()
    status = found.status
    assert (status.clients, status.waiting, status.served, status.tokens, status.uptime_ms) == (3, 2, 1, 1, 1000)
    assert (found.model, found.folder, found.engine) == ("no model", "/no/folder", "scripted 1")
    assert found.stats.replays == 1


def test_a_client_that_begins_anew_each_time_does_not_keep_the_engine(bench):
    eager, other = bench.peer(), bench.peer()
    eager.send(*[m.Prefill([1, number], 5) for number in range(6)])
    bench.service.clients.look(0.0)
    bench.service.turn()
    other.send(m.Generate([9], 2))
    bench.settle()
    order = [entry[1] for entry in bench.case.log if entry[0] == "prefill"]
    assert order.index([9]) <= 2
    assert len(order) == 7


def test_status_and_cancel_do_not_wait_for_the_answer_of_another(bench):
    busy, asker, waiter = bench.peer(), bench.peer(), bench.peer()
    seen: list[tuple[int, list[str]]] = []

    def act() -> None:
        if len(bench.case.log) == 3:
            asker.send(m.GetStatus())
            waiter.send(m.Generate([8], 3), m.Cancel())
        if len(bench.case.log) == 6:
            seen.append((6, [type(found).__name__ for found in [*asker.received(), *waiter.received()]]))

    bench.case.before = act
    busy.send(m.Generate([5], 50))
    bench.settle()
    assert seen == [(6, ["StatusIs", "Finished"])]
    assert tokens(busy.received()) == answer([5], 50)


def test_a_request_after_its_own_answer_keeps_its_place(bench):
    peer = bench.peer()
    peer.send(m.Generate([5], 3), m.GetStatus())
    bench.settle()
    assert [type(found).__name__ for found in peer.received()] == ["Token"] * 3 + ["Finished", "StatusIs"]
