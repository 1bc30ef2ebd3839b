"""Two replicas behind each balancer: what clients see of it, while all is well and while a replica ends."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from load import Load, lost

FACTS = "The secret code for river is 4821. It rained all night, but the morning was clear. "
QUESTION = FACTS + "The secret code for brave lion is 307.\nWhat is the secret code for river?"


def test_a_chat_is_answered(fleet):
    answer = fleet.chat(QUESTION, max_tokens=40)
    assert "4821" in answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0


def test_a_streamed_chat_says_the_same(fleet):
    whole = fleet.chat(QUESTION, max_tokens=40).choices[0].message.content
    chunks = fleet.chat(QUESTION, max_tokens=40, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole


def test_a_stream_comes_as_it_is_made(fleet):
    """Nothing on the way collects an answer before it passes it on."""
    sent = time.monotonic()
    stream = fleet.chat(QUESTION, max_tokens=1500, stream=True, extra_body={"ignore_eos": True})
    came = [time.monotonic() - sent for chunk in stream if chunk.choices and chunk.choices[0].delta.content]
    assert len(came) > 300
    assert came[0] < came[-1] / 2
    assert came[len(came) // 2] < came[-1] * 0.9


def test_the_cache_s_settings_come_through(fleet):
    if not fleet.balancer.kind.all_fields:
        pytest.skip("it drops fields that it does not know")
    answer = fleet.chat(QUESTION, extra_body={"kv_cache": {"preset": "balanced"}})
    assert answer.usage.model_extra["kv_cache"]["preset"] == "balanced"


def test_both_replicas_are_used_and_say_so(fleet):
    """Of what vLLM's dashboards and autoscalers read, too."""
    names = ["sparkv_request_success_total", "vllm:request_success_total"]
    before = [[replica.metric(name) for name in names] for replica in fleet.replicas]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: fleet.chat(f"{number}: tell me of number {number}"), range(24)))
    counts = [
        [replica.metric(name) - was for name, was in zip(names, values)]
        for replica, values in zip(fleet.replicas, before)
    ]
    assert [sum(column) for column in zip(*counts)] == [24, 24]
    assert all(ours > 0 and ours == vllm for ours, vllm in counts)


def hits(fleet) -> list[float]:
    return [replica.metric("sparkv_prefix_cache_hits_total") for replica in fleet.replicas]


def queries(fleet) -> list[float]:
    return [replica.metric("sparkv_prefix_cache_queries_total") for replica in fleet.replicas]


def found_in_cache(fleet, settings) -> float:
    """The share of the prompts' tokens that is found in a cache, in twelve conversations of four turns. `settings` are of a
    request, by the conversation's name."""

    # Nothing that another test had computed begins like that.
    started = time.monotonic()

    def turn(number: int, conversation: int) -> None:
        text = f"{conversation} is the number of this talk at {started}. " + FACTS * 8 * number
        fleet.chat(text, **settings(f"conversation-{conversation}"))

    before, asked = hits(fleet), queries(fleet)
    with ThreadPoolExecutor(12) as threads:
        for number in range(1, 5):
            list(threads.map(turn, [number] * 12, range(12)))
    assert all(now > was for now, was in zip(queries(fleet), asked)), "one replica had all"
    return (sum(hits(fleet)) - sum(before)) / (sum(queries(fleet)) - sum(asked))


# Of 1 + 2 + 3 + 4 parts of each conversation, 1 + 2 + 3 were computed before; at random, 3.9 parts of 10 are found on average.
ALIKE = 0.5


def test_what_begins_alike_goes_to_one_replica(fleet):
    """By a header that says what belongs together, or because the router looks at prompts."""
    session = fleet.balancer.kind.session
    assert found_in_cache(fleet, lambda name: {"extra_headers": {session: name}} if session else {}) > ALIKE


def test_a_session_may_be_named_in_the_body(fleet):
    field = fleet.balancer.kind.session_field
    if field is None:
        pytest.skip("it does not look into bodies, or at prompts anyway")
    assert found_in_cache(fleet, lambda name: {"extra_body": {field: f"body-{name}"}}) > ALIKE


def loaded(fleet) -> Load:
    return Load(fleet.balancer.url, fleet.balancer.headers, fleet.model)


def comes_back(fleet, replica) -> None:
    """Starts a replica again, and waits until it gets requests."""
    replica.start_again()
    deadline = time.monotonic() + 60
    with ThreadPoolExecutor(40) as threads:
        while replica.metric("sparkv_request_success_total") == 0:
            assert time.monotonic() < deadline, "a replica that came back gets nothing"
            # So many that no router leaves all of them to the other, whatever that has in its cache.
            list(threads.map(lambda number: fleet.chat(f"{number} {time.monotonic()}"), range(40)))


def test_no_request_is_lost_while_a_replica_drains(fleet):
    replica = fleet.replicas[0]

    def drain():
        replica.busy()
        replica.drain()

    # Until it is gone, so that what comes while it closes is among them.
    outcomes = loaded(fleet).run(drain, over=replica.gone)
    assert replica.code() == 0, replica.log()
    assert len(outcomes) >= 120
    assert not lost(outcomes)
    comes_back(fleet, replica)


def test_a_replica_that_is_killed_loses_only_what_it_was_answering(fleet):
    replica = fleet.replicas[1]
    moments = []

    def kill():
        replica.busy()
        moments.append(time.monotonic())
        replica.kill()
        moments.append(time.monotonic())

    outcomes = loaded(fleet).run(kill, over=replica.gone)
    [before, after] = moments
    assert len(outcomes) >= 120
    later = [outcome for outcome in lost(outcomes) if outcome.began > after or outcome.ended < before]
    assert not later, "these were not being answered when the replica was killed"
    comes_back(fleet, replica)
