"""The chat client against an endpoint on loopback that answers well, badly, late, or not at all."""

import json
import logging
from collections.abc import Callable
from email.utils import formatdate
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image as Pillow

from grape_reward.cache import Cache, question_hash
from grape_reward.vlm import (
    AnswerCutOff,
    ChatClient,
    ClientSettings,
    Clock,
    MalformedAnswer,
    VlmRefusal,
    VlmStatusError,
    retry_after,
)
from grape_reward.vlm_http import AnswerTooLarge, VlmTimeout, VlmUnreachable
from grape_reward.vlm_messages import Endpoint, Image, ImageError, Message, VlmConfigError, VlmError, read_image
from grape_reward.vlm_testing import KEY, Scripted, ScriptedEndpoint, completion, failure

pytest.importorskip("openai", reason="the openai package is not installed")
QUESTION = (Message("system", "be brief"), Message("user", "what is this?"))


class FakeTime:
    """Waits pass at once, and are remembered."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: sum(self.waits), wall=lambda: 1e9, sleep=self.sleep, jitter=lambda: 0.0)


def client(
    server: ScriptedEndpoint,
    time: FakeTime | None = None,
    say: Callable[[str], None] = lambda line: None,
    cache: Cache | None = None,
    fresh: bool = False,
    **settings: float,
) -> ChatClient:
    endpoint = Endpoint.from_environment(server.environment)
    return ChatClient(endpoint, say, cache, fresh, ClientSettings(**settings), (time or FakeTime()).clock)  # type: ignore[arg-type]


def png(width: int = 8, height: int = 6, colour: tuple[int, int, int] = (200, 30, 30)) -> Image:
    buffer = BytesIO()
    Pillow.new("RGB", (width, height), colour).save(buffer, "PNG")
    return Image(buffer.getvalue(), "image/png", width, height)


def test_the_question_goes_out_with_its_picture_and_nothing_that_was_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-secret")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "admin-secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Custom: custom-secret")
    said: list[str] = []
    with ScriptedEndpoint([completion("a plate")]) as server:
        answer = client(server, say=said.append).ask((*QUESTION, Message("user", "look", (png(),))))
        (asked,) = server.asked
    assert (answer.text, answer.model, answer.cached) == ("a plate", "scripted-1", False)
    assert asked.path == "/v1/chat/completions" and asked.headers["authorization"] == f"Bearer {KEY}"
    assert "secret" not in json.dumps(asked.headers)
    assert not [name for name in asked.headers if name.startswith(("x-", "openai-"))]
    assert set(asked.body) == {"model", "messages"} and asked.body["model"] == "scripted"
    assert asked.body["messages"][0] == {"role": "system", "content": "be brief"}
    text, picture = asked.body["messages"][2]["content"]
    assert text == {"type": "text", "text": "look"}
    assert picture["image_url"]["url"] == png().data_url and picture["image_url"]["url"].startswith("data:image/png;")
    assert (
        len(said) == 1 and "127.0.0.1" in said[0] and "image 8x6" in said[0] and f"{len(png().data)} bytes" in said[0]
    )


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_the_endpoint_asks_for_is_kept(status: int) -> None:
    time = FakeTime()
    said: list[str] = []
    answers = [failure(status, "slow down", retry_after="7"), completion("good")]
    with ScriptedEndpoint(answers) as server:
        assert client(server, time, said.append).ask(QUESTION).text == "good"
        assert len(server.asked) == 2
    assert time.waits == [7.0]
    assert len(said) == 2 and str(status) in said[1] and "again in 7.0 s" in said[1]


def test_a_wait_longer_than_we_are_patient_ends_at_once_with_its_length() -> None:
    time = FakeTime()
    with ScriptedEndpoint([failure(429, "quota", retry_after="3600")]) as server:
        with pytest.raises(VlmStatusError, match="429: quota; it asks to wait 3600 s") as caught:
            client(server, time).ask(QUESTION)
        assert len(server.asked) == 1
    assert caught.value.status == 429 and time.waits == []


def test_server_errors_are_tried_again_with_growing_waits_and_then_given_up() -> None:
    time = FakeTime()
    with ScriptedEndpoint([failure(500, "oops"), completion("good")]) as server:
        assert client(server, time).ask(QUESTION).text == "good"
    with ScriptedEndpoint([failure(500, "oops")] * 9) as server:
        with pytest.raises(VlmStatusError, match=r"HTTP 500: oops \(attempt 4 of 4\)"):
            client(server, time := FakeTime()).ask(QUESTION)
        assert len(server.asked) == 4
    assert time.waits == [1.0, 2.0, 4.0]


def test_patience_ends_the_asking_before_the_attempts_do() -> None:
    time = FakeTime()
    answers = [failure(500, "oops", retry_after="50")] * 9
    with ScriptedEndpoint(answers) as server, pytest.raises(VlmStatusError, match="given up after 2 attempts"):
        client(server, time, patience_s=60.0).ask(QUESTION)
    assert time.waits == [50.0]


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_mistake_of_ours_is_not_tried_again_and_the_key_is_taken_out_of_the_error(status: int) -> None:
    with ScriptedEndpoint([failure(status, f"wrong key {KEY} \x1b[2J here")] * 2) as server:
        with pytest.raises(VlmStatusError) as caught:
            client(server).ask(QUESTION)
        assert len(server.asked) == 1
    assert str(status) in str(caught.value) and KEY not in str(caught.value) and "[key]" in str(caught.value)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_redirect_is_not_followed_to_a_host_that_nobody_named() -> None:
    with ScriptedEndpoint([completion("elsewhere")]) as elsewhere:
        moved = Scripted(b"", 307, {"location": f"{elsewhere.base_url}/chat/completions"})
        with ScriptedEndpoint([moved]) as server, pytest.raises(VlmStatusError, match=r"307.*GRAPE_VLM_BASE_URL"):
            client(server).ask(QUESTION)
        assert elsewhere.asked == []


@pytest.mark.parametrize("stall", [0, 20], ids=["no answer", "half an answer"])
def test_silence_ends_in_a_time_out_that_is_tried_again(stall: int) -> None:
    silent = Scripted(completion("late").body, stall=stall)
    with ScriptedEndpoint([silent, *[completion("good")] * 9]) as server:
        assert client(server, timeout_s=0.3, attempts=9).ask(QUESTION).text == "good"
    with ScriptedEndpoint([silent]) as server, pytest.raises(VlmTimeout, match=r"127.0.0.1:\d+: no .*0.3 s"):
        client(server, timeout_s=0.3, attempts=1).ask(QUESTION)


def test_an_answer_that_drips_in_does_not_keep_us_for_ever() -> None:
    dripping = Scripted(completion("x" * 1000).body, trickle=0.05)
    with ScriptedEndpoint([dripping]) as server, pytest.raises(VlmTimeout, match=r"no whole answer within 0.3 s"):
        client(server, timeout_s=0.3, attempts=1).ask(QUESTION)


def test_nobody_at_the_address_is_said_with_the_address() -> None:
    with ScriptedEndpoint([]) as server:
        gone = client(server, attempts=2)
    with pytest.raises(VlmUnreachable, match=r"127.0.0.1:\d+: .*\(attempt 2 of 2\)"):
        gone.ask(QUESTION)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>bad gateway</html>", "not JSON"),
        (b'{"choices": [', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"choices": []}', "choices"),
        (b'{"object": "error"}', "choices"),
        (b'{"choices": [{"message": {"content": 7}}]}', "content"),
        (b"[1, 2]", "not a chat completion"),
        (completion("").body, "no text"),
        (completion(None).body, "no text"),
    ],
    ids=["page", "cut off", "nested", "no choices", "no completion", "number", "list", "empty", "null"],
)
def test_a_malformed_answer_is_tried_again_and_then_named(body: bytes, words: str) -> None:
    with ScriptedEndpoint([Scripted(body), completion("good")]) as server:
        assert client(server).ask(QUESTION).text == "good"
    with ScriptedEndpoint([Scripted(body)] * 2) as server, pytest.raises(MalformedAnswer, match=words) as caught:
        client(server, attempts=2).ask(QUESTION)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_huge_answer_is_not_read_to_its_end() -> None:
    for status in (200, 400):
        huge = Scripted(b" " * (3 << 20) + completion("x").body, status)
        with ScriptedEndpoint([huge]) as server, pytest.raises(AnswerTooLarge, match="over 100000 bytes"):
            client(server, max_answer_bytes=100_000).ask(QUESTION)


def test_a_compressed_answer_is_refused_before_it_unfolds() -> None:
    import gzip

    bomb = Scripted(gzip.compress(b" " * (50 << 20)), headers={"content-encoding": "gzip"})
    with ScriptedEndpoint([bomb]) as server:
        with pytest.raises(VlmError, match="compressed"):
            client(server).ask(QUESTION)
        assert server.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (completion(None, refusal="I will not\nhelp"), VlmRefusal, "refused: I will not help"),
        (completion("half a", finish="content_filter"), VlmRefusal, "content filter"),
        (completion("half a", finish="length"), AnswerCutOff, "cut off"),
    ],
)
def test_a_refusal_is_final_and_kept_out_of_the_cache(
    answer: Scripted, kind: type[VlmError], words: str, tmp_path: Path
) -> None:
    with ScriptedEndpoint([answer, completion("good")]) as server:
        with pytest.raises(kind, match=words):
            client(server, cache=Cache(tmp_path)).ask(QUESTION)
        assert len(server.asked) == 1
    assert list(tmp_path.rglob("*")) == []


def test_a_known_answer_makes_no_second_request(tmp_path: Path) -> None:
    said: list[str] = []
    with ScriptedEndpoint([completion("one"), completion("two"), completion("three")]) as server:
        first = client(server, cache=Cache(tmp_path)).ask(QUESTION)
        again = client(server, cache=Cache(tmp_path), say=said.append).ask(QUESTION)
        assert (again.text, again.cached, again.question) == ("one", True, first.question)
        assert len(server.asked) == 1 and said == []
        assert client(server, cache=Cache(tmp_path)).ask((*QUESTION, Message("user", "and?"))).text == "two"
        assert client(server, cache=Cache(tmp_path), fresh=True).ask(QUESTION).text == "three"
        assert client(server, cache=Cache(tmp_path)).ask(QUESTION).text == "three"
        assert len(server.asked) == 3


def test_what_is_asked_with_decides_whether_an_answer_is_known() -> None:
    here = Endpoint("http://localhost:1/v1", "m")
    ask = (Message("user", "look", (png(),)),)
    same = question_hash(Endpoint("http://localhost:1/v1", "m", "another-key"), ask, {})
    others = {
        question_hash(Endpoint("http://localhost:2/v1", "m"), ask, {}),
        question_hash(Endpoint("http://localhost:1/v1", "n"), ask, {}),
        question_hash(here, ask, {"temperature": 0.0}),
        question_hash(here, (Message("user", "look!", (png(),)),), {}),
        question_hash(here, (Message("user", "look", (png(colour=(0, 0, 0)),)),), {}),
        question_hash(here, (Message("system", "look", (png(),)),), {}),
    }
    assert same == question_hash(here, ask, {}) and same not in others and len(others) == 6


def test_a_damaged_or_exchanged_cache_file_is_not_taken(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put("a" * 64, "m", "one")
    cache.put("b" * 64, "m", "two")
    file_a, file_b = (tmp_path / name[:2] / f"{name}.json" for name in ("a" * 64, "b" * 64))
    assert cache.get("c" * 64) is None
    file_a.write_bytes(file_b.read_bytes())
    assert cache.get("a" * 64) is None
    file_b.write_bytes(file_b.read_bytes()[:-20])
    assert cache.get("b" * 64) is None


def test_the_key_is_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("openai").setLevel(logging.DEBUG)
    said: list[str] = []
    with ScriptedEndpoint([failure(500, KEY), completion(f"your key is {KEY}", model=KEY)]) as server:
        asking = client(server, say=said.append, cache=Cache(tmp_path))
        assert asking.ask(QUESTION).text == "your key is [key]"
    files = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(files) == 1 and len(said) == 2
    everything = [*files, *said, repr(asking), str(asking.endpoint), caplog.text, *capfd.readouterr()]
    assert not [text for text in everything if KEY in text]


def test_half_a_surrogate_pair_in_an_answer_can_be_written_down(tmp_path: Path) -> None:
    body = completion("x").body.replace(b'"x"', b'"x \\ud800"')
    with ScriptedEndpoint([Scripted(body)]) as server:
        assert client(server, cache=Cache(tmp_path)).ask(QUESTION).text == "x ?"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"GRAPE_VLM_BASE_URL": ""}, "GRAPE_VLM_BASE_URL is not set"),
        ({"GRAPE_VLM_BASE_URL": "vlm.example"}, "GRAPE_VLM_BASE_URL: not an http"),
        ({"GRAPE_VLM_BASE_URL": "file:///etc/passwd"}, "GRAPE_VLM_BASE_URL: not an http"),
        ({"GRAPE_VLM_BASE_URL": "https://h:99999/v1"}, "GRAPE_VLM_BASE_URL"),
        ({"GRAPE_VLM_BASE_URL": "https://me:secret@h/v1"}, "GRAPE_VLM_API_KEY"),
        ({"GRAPE_VLM_MODEL": " "}, "GRAPE_VLM_MODEL is not set"),
        ({"GRAPE_VLM_API_KEY": ""}, "GRAPE_VLM_API_KEY is not set"),
        ({"GRAPE_VLM_API_KEY": "two words"}, "GRAPE_VLM_API_KEY holds"),
    ],
)
def test_a_wrong_variable_is_named(change: dict[str, str], words: str) -> None:
    good = {"GRAPE_VLM_BASE_URL": "https://h/v1/", "GRAPE_VLM_MODEL": "m", "GRAPE_VLM_API_KEY": "k"}
    assert Endpoint.from_environment(good) == Endpoint("https://h/v1", "m", "k")
    with pytest.raises(VlmConfigError, match=words) as caught:
        Endpoint.from_environment({**good, **change})
    assert "secret" not in str(caught.value) and "two words" not in str(caught.value)


def test_a_server_on_this_machine_needs_no_key_and_one_elsewhere_is_called_unencrypted() -> None:
    local = {"GRAPE_VLM_BASE_URL": "http://localhost:8000/v1", "GRAPE_VLM_MODEL": "m"}
    assert not Endpoint.from_environment(local).unencrypted
    assert Endpoint("http://gpu-box:8000/v1", "m", "k").unencrypted
    with ScriptedEndpoint([completion("good")]) as server:
        keyless = ChatClient(Endpoint(server.base_url, "m"), lambda line: None)
        assert keyless.ask(QUESTION).text == "good" and "authorization" not in server.asked[0].headers


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-4", 0.0),
        (formatdate(1e9 + 30, usegmt=True), 30.0),
        (formatdate(1e9 - 30, usegmt=True), 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(said: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": said} if said else {}, 1e9) == seconds


def test_images_are_known_by_their_contents(tmp_path: Path) -> None:
    picture = Pillow.new("RGB", (20, 10))
    picture.save(tmp_path / "a.png", "PNG")
    picture.save(tmp_path / "b.png", "JPEG")
    picture.save(tmp_path / "c.png", "GIF")
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    one = read_image(tmp_path / "a.png")
    assert (one.media_type, one.width, one.height) == ("image/png", 20, 10)
    assert read_image(tmp_path / "b.png").media_type == "image/jpeg"
    for name in ("c.png", "d.png", "absent.png"):
        with pytest.raises(ImageError, match=name):
            read_image(tmp_path / name)
