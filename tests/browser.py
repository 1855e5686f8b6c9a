"""Read a page, with and without a browser, and compare its numbers with the run folder.

The browser is headless Chromium, asked by the DevTools protocol.
"""

import json
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import websocket
from safetensors.numpy import load_file

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
)
PATIENCE = 60.0
"""Seconds for one answer of a browser on a busy machine."""

RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")

LOOK = """(async () => {
  const pictures = [...document.images];
  await Promise.all(pictures.map(p => p.complete || new Promise(done => {
    p.onload = p.onerror = done;
  })));
  await new Promise(done => setTimeout(done, 200));
  const root = document.documentElement;
  return {
    pictures: pictures.map(p => ({alt: p.alt, width: p.naturalWidth})),
    numbers: [...document.querySelectorAll("[data-value]")].map(e => ({
      source: e.dataset.source, key: e.dataset.key, value: e.dataset.value,
      text: e.textContent,
    })),
    shown: Object.fromEntries(["ins", "del", "figure svg"].map(kind => [
      kind, [...document.querySelectorAll(kind)].filter(
        e => e.getBoundingClientRect().width > 0).length,
    ])),
    overflow: root.scrollWidth - root.clientWidth,
    background: getComputedStyle(document.body).backgroundColor,
  };
})()"""


@dataclass(frozen=True)
class Visit:
    """What a page did and showed.

    Attributes:
        errors: Console errors and exceptions.
        requests: Addresses asked for, other than the page itself and data URIs.
        pictures: ``alt`` and decoded ``width`` of every picture.
        numbers: ``source``, ``key``, ``value`` and ``text`` of every marked number.
        shown: How many edited pieces and drawings take up room, by selector.
        overflow: Pixels by which the page is wider than the window.
        background: Colour of the page.
    """

    errors: list[str]
    requests: list[str]
    pictures: list[dict[str, Any]]
    numbers: list[dict[str, str]]
    shown: dict[str, int]
    overflow: int
    background: str


class Chromium:
    """A browser with one tab; a context manager."""

    def __init__(self, program: str, profile: Path) -> None:
        self._events: list[dict[str, Any]] = []
        self._sent = 0
        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._socket = websocket.create_connection(
                _tab(profile / "DevToolsActivePort"),
                timeout=PATIENCE,
                suppress_origin=True,
            )
        except BaseException:
            self._stop()
            raise
        for domain in ("Runtime", "Log", "Network", "Page"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
        self._stop()

    def visit(self, page: Path, *, width: int = 1200, dark: bool = False) -> Visit:
        """Open a local page and wait until its pictures are there or have failed."""
        self._open("about:blank")
        self._call("Log.clear")
        self._events.clear()
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        url = page.resolve().as_uri()
        self._open(url)
        seen = self._call(
            "Runtime.evaluate", expression=LOOK, awaitPromise=True, returnByValue=True
        )
        requests = [
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return Visit(
            errors=[text for event in self._events if (text := _error(event))],
            requests=[r for r in requests if r != url and not r.startswith("data:")],
            **seen["result"]["value"],
        )

    def _open(self, url: str) -> None:
        before = len(self._events)
        self._call("Page.navigate", url=url)
        while not any(
            event["method"] == "Page.loadEventFired" for event in self._events[before:]
        ):
            self._receive()

    def _call(self, method: str, **params: Any) -> Any:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params}
        self._socket.send(json.dumps(message))
        while True:
            answer = self._receive()
            if answer.get("id") == self._sent:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        message = json.loads(self._socket.recv())
        if "method" in message:
            self._events.append(message)
        return message

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _tab(port_file: Path) -> str:
    """Wait for the browser and return the address of its tab."""
    deadline = time.monotonic() + PATIENCE
    while not port_file.is_file() or not port_file.read_text().strip():
        assert time.monotonic() < deadline, f"Chromium must write {port_file}"
        time.sleep(0.05)
    port = port_file.read_text().split()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
        tabs = json.load(answer)
    return next(t["webSocketDebuggerUrl"] for t in tabs if t["type"] == "page")


def _error(event: dict[str, Any]) -> str | None:
    params = event["params"]
    if event["method"] == "Runtime.exceptionThrown":
        return f"exception: {params['exceptionDetails']['text']}"
    if event["method"] == "Runtime.consoleAPICalled" and params["type"] == "error":
        return f"console.error: {params['args']}"
    if event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
        return f"log: {params['entry']['text']}"
    return None


class Page(HTMLParser):
    """Pictures and marked numbers of a page, read without a browser."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.pictures: list[dict[str, str | None]] = []
        self.numbers: list[dict[str, str]] = []
        self._inside = False
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "img":
            self.pictures.append(attributes)
        self._inside = "data-value" in attributes
        if self._inside:
            fields = ("source", "key", "value")
            self.numbers.append(
                {f: attributes[f"data-{f}"] or "" for f in fields} | {"text": ""}
            )

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.numbers[-1]["text"] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def number_faults(numbers: list[dict[str, str]], root: Path) -> list[str]:
    """List numbers that differ from the run folder, or from their own text."""
    stored: dict[str, Any] = {}
    faults = []
    for number in numbers:
        source, key = number["source"], number["key"]
        if source not in stored:
            is_derived = source == "derived"
            stored[source] = derived(root) if is_derived else read(root / source)
        expected, given = stored[source], json.loads(number["value"])
        for part in key.split("."):
            expected = (
                expected[int(part)]
                if part.isdigit() and not isinstance(expected, dict)
                else expected[part]
            )
        if given != expected:
            faults.append(f"number {source} {key}: {given} for {expected}")
        shown, unit = parse(number["text"])
        if abs(shown - given) > 0.500001 * unit:
            faults.append(f"number {source} {key}: shown as {number['text']}")
    return faults


def read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return json.loads(path.read_text())


def derived(root: Path) -> dict[str, float]:
    results = read(root / "results.json")
    edit, levels = results["config"]["edit"], results["levels"]
    numbers = {
        "share_edited": edit["k"] / results["num_documents"]["train"],
        "levels_asked": edit["epsilon"] * levels,
    }
    if results["pairs"]:
        reached = max(p["arms"]["edit"]["reached"]["linf"] for p in results["pairs"])
        numbers["levels_reached"] = reached * levels
    return numbers


def parse(text: str) -> tuple[float, float]:
    """Read a number as shown, and the unit of its last digit."""
    scale = 1.0
    text = text.replace("−", "-").replace(",", "")
    if text.endswith(" %"):
        text, scale = text.removesuffix(" %"), 0.01
    mantissa, times, power = text.partition("×10")
    if times:
        scale *= 10.0 ** int(power.translate(RAISED))
    decimals = len(mantissa.partition(".")[2])
    return float(mantissa) * scale, 10.0**-decimals * scale
