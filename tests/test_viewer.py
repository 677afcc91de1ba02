"""The viewer without a browser: what a visitor chooses, files that they send, turns of rendering, who may come in."""

from __future__ import annotations

import http.client
import pickle
import shlex
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from animate_support import FakeClip, picture, save_tiny
from click.testing import CliRunner
from PIL import Image
from viewer_support import Visitor, serving, tiny_studio, wait
from websockets.exceptions import InvalidStatus

import gen_videos
import visualizer
from dnnlib import UserError
from inference.demo import MOTION, load_demo_network
from inference.tracked import AUTO, NetworkTracker
from viewer.canvas import TURN_SHARE, on_canvas, view_angles_deg
from viewer.examples import ASTRONAUT
from viewer.gate import is_loopback
from viewer.inbox import DRIVER, PHOTO, PHOTO_BYTES, Inbox, plain_name, suffix_of
from viewer.renderer import Renderer
from viewer.server import Viewer
from viewer.session import Session, Studio

# ---- what one visitor chooses -------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session(tiny_studio(tmp_path))
    made.take_photo(made.studio.photos["light"])
    yield made
    made.close()


def _seen(session: Session, moving: bool = False) -> np.ndarray:
    shot = session.picture(moving)
    assert shot is not None
    return shot.image


def test_every_choice_changes_the_picture_and_can_be_taken_back(session: Session) -> None:
    rest = _seen(session)
    for do, undo in (
        (lambda: session.set_unit("jawOpen", 0.8), lambda: session.set_unit("jawOpen", 0)),
        (lambda: session.set_direction(0, 1.5), session.reset),
        (lambda: session.set_view(25, 10), lambda: session.set_view(0, 0)),
        (lambda: session.set_kind("normals"), lambda: session.set_kind("image")),
    ):
        do()
        assert not np.array_equal(_seen(session), rest)
        undo()
        np.testing.assert_array_equal(_seen(session), rest)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x", None, [1], 10**400, -7])
def test_what_a_browser_sends_is_held_within_its_range(session: Session, value: Any) -> None:
    session.set_unit("jawOpen", value)
    session.set_unit("no such unit", 1.0)
    session.set_direction(0, value)
    session.set_direction(99, 1.0)
    session.set_view(value, value)
    session.set_frame(value)
    session.set_kind(value)
    session.set_steer(strength=value, regions={"nose": True})
    wish = session.wish
    assert -1 <= wish.units["jawOpen"] <= 1 and set(wish.units) == {"jawOpen"}
    assert set(wish.directions) == {0} and abs(wish.yaw_deg) <= 180 and wish.kind == "image"
    assert 0 <= wish.strength <= 3 and wish.frame == 0 and "nose" not in wish.regions
    assert _seen(session).any()


def test_a_driver_of_one_frame_does_not_play(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "still.png"
    clip.write_bytes(b"a still")
    monkeypatch.setattr(session.studio.tracker, "clip", lambda *_: FakeClip(1, "still"))
    session.take_driver(clip)
    session.play(True)  # its length is nothing to divide by
    assert not session.playing and session.n_frames == 1
    _seen(session)


def test_a_driver_plays_holds_and_goes_to_a_frame(session: Session, tmp_path: Path) -> None:
    clip = tmp_path / "c.mp4"
    clip.write_bytes(b"\0\0\0\x18ftypmp42")
    session.take_driver(clip, "clip of mine.mp4")
    assert session.n_frames == 5
    session.set_frame(3)
    third = _seen(session)
    session.set_frame(1)
    assert not np.array_equal(_seen(session), third)
    session.play(True)
    wait(lambda: session.picture(True) and session.wish.frame == 3)  # and round again
    session.play(False)
    session.set_frame(3)
    np.testing.assert_array_equal(_seen(session), third)
    assert "-d 'clip of mine.mp4' --frame 3" in session.command()
    session.set_steer(regions=dict.fromkeys(session.wish.regions, False))
    assert "-d" not in shlex.split(session.command())  # without a region nothing follows
    assert session.command("video") == ""


def test_closing_forgets_everything(session: Session) -> None:
    assert session.folder.is_dir()
    session.close()
    assert not session.folder.exists() and session.picture(False) is None
    session.take_photo(session.studio.photos["light"])  # a file that was being read
    assert session.picture(False) is None


def test_a_photo_that_was_sent_is_deleted_when_another_takes_its_place(session: Session) -> None:
    sent = session.folder / "part-0.png"
    Image.fromarray(picture(1)).save(sent)
    session.take_photo(sent, "mine.png")
    assert shlex.split(session.command())[4] == "mine.png"
    session.take_photo(session.studio.photos["dark"])
    assert not sent.exists() and session.studio.photos["dark"].exists()


def test_a_refused_file_has_the_name_that_its_visitor_knows(session: Session) -> None:
    sent = session.folder / "part-0.png"
    sent.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UserError) as refused:
        session.take_photo(sent, "holiday.png")
    assert "holiday.png" in str(refused.value) and "part-0" not in str(refused.value)
    assert session.picture(False) is not None  # the one before is still there


@pytest.mark.slow
def test_the_command_line_makes_the_same_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_demo_network()
    studio = Studio(network, NetworkTracker(network, size=AUTO), {}, {})
    motion = tmp_path / "my motion.json"
    motion.write_text(MOTION.read_text().replace('"directions"', '"no directions"'))
    monkeypatch.chdir(tmp_path)
    session = Session(studio)
    session.take_photo(ASTRONAUT)
    session.set_unit("jawOpen", 0.4567)
    session.set_direction(1, -0.5)
    session.set_view(12.3456, -4)
    checked = [session.save("still")[1]]
    commands = [session.command()]
    session.take_driver(motion)
    session.set_frame(61)
    session.set_steer(strength=1.3, relative=True, regions={"gaze": False})
    session.set_kind("depth")
    checked.append(session.save("still")[1])
    commands.append(session.command())
    session.close()
    for content, command in zip(checked, commands, strict=True):
        words = shlex.split(command)
        assert words[:2] == ["python", "gen_videos.py"]
        done = CliRunner().invoke(gen_videos.main, words[2:])
        assert done.exit_code == 0, done.output
        assert (tmp_path / "look.png").read_bytes() == content


def test_a_picture_lies_in_the_middle_of_a_window_and_angles_are_its_cameras() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    page = on_canvas(image, 1200, 600)
    assert page.shape == (400, 800, 3) and not page[:, 200:600].any() and page[:, :200].all()
    assert on_canvas(image, 300, 900).shape == (1200, 400, 3)
    assert on_canvas(image[::4, ::4], 0, 0).shape == (384, 384, 3)
    assert on_canvas(image[::4, ::4], 0, 0, moving=True).shape == (100, 100, 3)
    yaw, pitch = view_angles_deg((1.0, 1.0, 1.0), (0.0, 1.0, 0.0))
    assert (yaw, pitch) == (45 * TURN_SHARE, 0)


# ---- files that are sent ------------------------------------------------------------------------------------------


@pytest.fixture
def inbox(tmp_path: Path) -> SimpleNamespace:
    got: list[tuple[str, str, Path]] = []
    said: list[str] = []
    return SimpleNamespace(
        box=Inbox(tmp_path, lambda *a: got.append(a), said.append),
        got=got,
        said=said,
        folder=tmp_path,
    )


def test_a_file_arrives_in_parts_under_a_name_that_its_content_gives(inbox: Any) -> None:
    content = b"\x89PNG\r\n\x1a\n" + bytes(100)
    assert inbox.box.start("t", "b", PHOTO, "../../etc/my photo.pkl", len(content))
    assert inbox.box.part("t", 0, content[:60]) == 60
    assert inbox.got == []
    assert inbox.box.part("t", 1, content[60:]) == len(content)
    ((button, name, path),) = inbox.got
    assert (button, name, path.parent, path.suffix) == ("b", "my photo.pkl", inbox.folder, ".png")
    assert path.read_bytes() == content and inbox.said == []


def test_a_gigabyte_is_refused_before_it_comes(inbox: Any) -> None:
    assert not inbox.box.start("t", "b", PHOTO, "huge.jpg", 2**30)
    assert inbox.said == [
        "huge.jpg has 1,024 MiB, and a photo may have 20; choose a JPEG, PNG, WebP, BMP, TIFF or AVIF file"
    ]
    assert inbox.box.part("t", 0, b"\xff\xd8\xff" + bytes(100)) is None
    assert not inbox.box.start("t", "b", PHOTO, "nothing.jpg", 0)
    assert list(inbox.folder.iterdir()) == [] and inbox.got == []


def test_a_renamed_pickle_is_refused(inbox: Any) -> None:
    content = pickle.dumps({"a": 1})
    for wanted, name in ((PHOTO, "face.jpg"), (DRIVER, "motion.safetensors")):
        assert inbox.box.start("t", "b", wanted, name, len(content))
        assert inbox.box.part("t", 0, content) is None
        assert inbox.said[-1].startswith(f"{name} is not {wanted.what}, whatever its name says")
    assert list(inbox.folder.iterdir()) == [] and inbox.got == []


@pytest.mark.parametrize(
    "parts",
    [
        [(0, 30), (0, 30)],  # twice
        [(1, 30)],  # not from the start
        [(0, 30), (1, 31)],  # more than was said
        [(0, 30), (1, 0)],  # nothing
    ],
)
def test_what_does_not_come_as_announced_is_refused(
    inbox: Any, parts: list[tuple[int, int]]
) -> None:
    assert inbox.box.start("t", "b", PHOTO, "a.jpg", 60)
    for number, size in parts:
        inbox.box.part("t", number, b"\xff\xd8\xff".ljust(size, b"\0")[:size])
    assert inbox.said == ["a.jpg did not arrive as it was announced; send it again"]
    assert list(inbox.folder.iterdir()) == []


def test_kinds_are_told_by_content() -> None:
    for head, suffix in (
        (b"\xff\xd8\xff\xe0", ".jpg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", ".webp"),
        (b"RIFF\0\0\0\0AVI LIST", ".avi"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", ".avif"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", ".mp4"),
        (b'\x40\0\0\0\0\0\0\0{"a":{}', ".safetensors"),
        (b' \n{"format": 1}', ".json"),
        (b"PK\3\4", ""),  # what torch.save writes
        (b"\x7fELF", ""),
        (b"#!/bin/sh", ""),
        (b"<svg>", ""),
        (b"%!PS", ""),
    ):
        assert suffix_of(head.ljust(16, b"\0")) == suffix
    assert plain_name("C:\\me\\a\x1b[31m.jpg") == "a[31m.jpg" and plain_name("/") == "file"


# ---- turns of rendering -------------------------------------------------------------------------------------------


class _Head:
    """Notes how it is drawn."""

    def __init__(self, log: list[tuple[str, bool]], name: str, broken: bool = False) -> None:
        self.log, self.name, self.broken = log, name, broken
        self.playing = False
        self.hold: Event | None = None

    def draw(self, moving: bool, asked_s: float) -> None:
        self.log.append((self.name, moving))
        if self.hold is not None:
            self.hold.wait(30)
        if self.broken:
            raise RuntimeError("as it happens")


def test_only_the_newest_is_drawn_in_turn_and_once_more_at_rest(
    capfd: pytest.CaptureFixture[str],
) -> None:
    renderer, log = Renderer(), []
    first, second, broken = (_Head(log, n, n == "broken") for n in ("first", "second", "broken"))
    first.hold = Event()
    renderer.ask(first)
    wait(lambda: log)
    for _ in range(50):  # while the first picture is being made
        for head in (first, second, broken):
            renderer.ask(head)
    first.hold.set()
    wait(lambda: ("first", False) in log and ("second", False) in log)
    assert log.count(("second", True)) == 1 and log.count(("first", True)) == 2
    assert log.index(("second", True)) < len(log) - 1 - log[::-1].index(("first", True))
    assert log.count(("broken", True)) == 1  # whoever fails is left out, the others go on
    assert "as it happens" in capfd.readouterr().err
    first.playing = True
    count = len(log)
    renderer.ask(first)
    wait(lambda: len(log) > count + 4)
    assert log[count:].count(("first", True)) > 4 and ("first", False) not in log[count:]
    renderer.forget(first)
    renderer.stop()


# ---- who may come in ----------------------------------------------------------------------------------------------


def _get(viewer: Viewer, path: str = "/", **headers: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace"), dict(answer.headers)


def _status(viewer: Viewer, headers: dict[str, str] | None = None, query: str = "") -> int:
    """What a socket is answered."""
    try:
        visitor = Visitor(viewer, headers, query)
    except InvalidStatus as refused:
        return refused.response.status_code
    visitor.close()
    return 101


def test_on_loopback_pages_of_other_sites_and_other_names_are_refused(tmp_path: Path) -> None:
    assert is_loopback("localhost") and is_loopback("::1") and not is_loopback("0.0.0.0")
    with serving(tiny_studio(tmp_path)) as viewer:
        assert viewer.token is None and viewer.url == f"http://127.0.0.1:{viewer.port}/"
        status, page, headers = _get(viewer)
        assert status == 200 and "<title>" in page
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert _get(viewer, Host=f"evil.example:{viewer.port}")[0] == 403
        assert _get(viewer, Origin="http://evil.example")[0] == 403
        assert _status(viewer, {"Origin": "http://evil.example"}) == 403
        assert _status(viewer, {"Origin": f"http://127.0.0.1:{viewer.port}"}) == 101
        assert _get(viewer, "/%2e%2e/%2e%2e/_viser.py")[0] == 404


def test_elsewhere_nothing_is_answered_without_the_token(tmp_path: Path) -> None:
    with serving(tiny_studio(tmp_path), "0.0.0.0") as viewer:
        token = viewer.token
        assert token is not None and len(token) > 40 and viewer.url.endswith(f"/?token={token}")
        for path in ("/", "/index.html", "/?token=", f"/?token={token[:-1]}", f"/?x={token}"):
            status, page, _ = _get(viewer, path)
            assert status == 403 and "token" in page and "<title>" not in page
        assert _status(viewer) == _status(viewer, query="?token=wrong") == 403
        assert _status(viewer, {"Cookie": "a=b; export3d=; ;;"}) == 403
        status, _, headers = _get(viewer, f"/?token={token}")
        assert status == 303 and headers["Location"] == "/"
        kept = headers["Set-Cookie"]
        assert "HttpOnly" in kept and "SameSite=Strict" in kept
        cookie = kept.partition(";")[0]
        assert _get(viewer, Cookie=cookie)[0] == 200
        assert _status(viewer, {"Cookie": cookie, "Origin": "http://evil.example"}) == 403
        assert viewer.panels == ()  # nobody without it got as far as a session
        assert _status(viewer, {"Cookie": f"other=1; {cookie}"}) == 101
        wait(lambda: viewer.panels == ())  # who had it has left again


def test_the_program_starts_without_asking_anybody(tmp_path: Path, cli: Any) -> None:
    """It listens on loopback alone, opens no connection, and prints its address."""
    watch = tmp_path / "sitecustomize.py"
    watch.write_text(
        "import sys\n"
        "def watch(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname', 'socket.bind'):\n"
        "        sys.stderr.write(f'{event} {arguments[1:]}\\n')\n"
        "sys.addaudithook(watch)\n"
    )
    network = save_tiny(tmp_path / "net.safetensors")
    words = ("--network", network, "--port", 0, "--seconds", 0.2)
    done = cli("visualizer.py", *words, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0 and "Open http://127.0.0.1:" in done.stdout, done.stderr
    events = [line for line in done.stderr.splitlines() if line.startswith("socket.")]
    assert events and all("socket.bind (('127.0.0.1'," in line for line in events), events


def test_an_address_of_another_machine_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1 cannot be listened on"):
        Viewer(tiny_studio(tmp_path), "192.0.2.1", 0, 1)


# ---- visitors -----------------------------------------------------------------------------------------------------


def test_a_visitor_sees_moves_turns_and_sends(tmp_path: Path) -> None:
    with serving(tiny_studio(tmp_path)) as viewer:
        visitor = Visitor(viewer)
        rest = visitor.rests()
        visitor.touch("jawOpen", 0.8)
        wait(lambda: viewer.panels[0].session.wish.units == {"jawOpen": 0.8})
        visitor.touch("output", "opacity")  # an untrained network's face hardly moves
        visitor.rests(unlike=rest)
        visitor.touch("output", "image")
        visitor.look_from((1.5, 0.0, 2.0))
        turn = pytest.approx(36.9 * TURN_SHARE, abs=0.1)
        wait(lambda: viewer.panels[0].session.wish.yaw_deg == turn)
        turned = visitor.rests(unlike=rest)
        sent = tmp_path / "mine.png"
        Image.fromarray(picture(5, 64)).save(sent)
        visitor.upload("Your photo", "mine.png", sent.read_bytes())
        wait(lambda: "mine.png" in viewer.panels[0].session.command())
        visitor.rests(unlike=turned)
        assert "to render" in viewer.panels[0].times
        # of a slider nothing but its value may be set, and nobody opens a tunnel
        visitor.send("GuiUpdateMessage", uuid=visitor.handle("jawOpen"), updates={"update_cb": []})
        visitor.send("ShareUrlRequest")
        visitor.touch("jawOpen", -0.5)
        wait(lambda: viewer.panels[0].session.wish.units["jawOpen"] == -0.5)
        assert viewer._server._share_tunnel is None
        visitor.close()


def test_a_renamed_pickle_and_a_gigabyte_are_refused_with_a_sentence(tmp_path: Path) -> None:
    with serving(tiny_studio(tmp_path)) as viewer:
        visitor = Visitor(viewer)
        rest = visitor.rests()
        visitor.upload("Your photo", "face.jpg", pickle.dumps(list(range(50))))
        visitor.told("face.jpg is not a photo, whatever its name says")
        visitor.upload("Your photo", "big.jpg", b"\xff\xd8\xff" + bytes(10), claim=2**30)
        visitor.told("big.jpg has 1,024 MiB, and a photo may have 20")
        visitor.upload("Your photo", "half.jpg", b"\xff\xd8\xff" + bytes(1000))
        visitor.told("half.jpg cannot be read")
        header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        content = len(header).to_bytes(8, "little") + header + bytes(4)
        visitor.upload("Your video or motion", "m.safetensors", content)
        said = visitor.told("m.safetensors")
        assert "Traceback" not in " ".join(visitor.notes) and said
        assert PHOTO_BYTES < 2**30
        folder = viewer.panels[0].session.folder
        wait(lambda: list(folder.iterdir()) == [])
        np.testing.assert_array_equal(visitor.seen(), rest)
        visitor.close()


def test_two_visitors_are_apart_and_what_was_theirs_goes_with_them(tmp_path: Path) -> None:
    with serving(tiny_studio(tmp_path), visitors=2) as viewer:
        one, two = Visitor(viewer), Visitor(viewer)
        before = one.rests(), two.rests()
        np.testing.assert_array_equal(*before)  # the same example
        sent = tmp_path / "secret.png"
        Image.fromarray(picture(7, 64)).save(sent)
        count = len(two.messages)
        one.upload("Your photo", "secret.png", sent.read_bytes())
        one.touch("jawOpen", 0.9)
        one.rests(unlike=before[0])
        new = [m for m in two.messages[count:] if m["type"] != "GuiUpdateMessage"]
        assert new == [] and not any("secret" in str(m) for m in two.messages)
        assert viewer.panels[1].session.wish.units == {}
        # a slider of the other's is nothing to touch
        theirs = one.handle("jawOpen")
        two.send("GuiUpdateMessage", uuid=theirs, updates={"value": -1.0})
        two.touch("jawForward", 0.3)
        wait(lambda: viewer.panels[1].session.wish.units)
        wait(lambda: viewer.panels[0].session.wish.units == {"jawOpen": 0.9})
        assert _status(viewer) == _get(viewer)[0] == 503
        session = viewer.panels[0].session
        one.close()
        wait(lambda: len(viewer.panels) == 1)
        wait(lambda: session.closed and not session.folder.exists())
        assert session.picture(False) is None
        three = Visitor(viewer)
        np.testing.assert_array_equal(three.rests(), before[0])
        two.close()
        three.close()


@pytest.mark.parametrize("option", ["--source", "--driving"])
def test_what_the_command_offers_is_looked_at_before_anybody_comes(
    tmp_path: Path, option: str
) -> None:
    words = tmp_path / "README.md"
    words.write_text("no picture, no video")
    done = CliRunner().invoke(visualizer.main, [option, str(words), "--seconds", "1"])
    assert done.exit_code == 1 and "README.md cannot be read as" in done.output
    assert "Open" not in done.output
