"""A headless Chromium, controlled by the DevTools protocol over a pipe, without a package or a port.

Source: https://chromedevtools.github.io/devtools-protocol; each message is JSON followed by a zero byte.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PATIENCE_SECONDS = 60.0


class Browser:
    """One browser with one page. ``errors`` has the errors and warnings of its console, and requests to a network."""

    def __init__(self) -> None:
        assert CHROMIUM
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        browser_in, self._out = os.pipe()
        self._in, browser_out = os.pipe()
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--mute-audio",
            "--autoplay-policy=no-user-gesture-required",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile.name}",
        ]
        shell = f'exec "$0" "$@" 3<&{browser_in} 4>&{browser_out}'  # the protocol uses file descriptors 3 and 4
        self._process = subprocess.Popen(
            ["bash", "-c", shell, CHROMIUM, *flags, "about:blank"],
            pass_fds=(browser_in, browser_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_in)
        os.close(browser_out)
        self._number, self._buffer = 0, b""
        self._session: str | None = None
        self.errors: list[str] = []
        self._loaded = False
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Close the browser."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call one method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            answer = self._read(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            self._buffer += os.read(self._in, 1 << 20)
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        self._record(message.get("method", ""), message.get("params", {}))
        return message

    def _record(self, method: str, event: dict[str, Any]) -> None:
        """Record errors and warnings of the page, its requests to a network, and the end of loading."""
        if method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.errors.append(str(details.get("exception", {}).get("description", details["text"])))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.errors.append(event["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(event["args"]))
        elif method == "Network.requestWillBeSent" and not event["request"]["url"].startswith(
            ("data:", "file:", "about:")
        ):
            self.errors.append(f"requested from the network: {event['request']['url']}")
        elif method == "Page.loadEventFired":
            self._loaded = True

    def open(self, path: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Open a file from disk at a width in CSS pixels, in the light or the dark scheme."""
        self.set_window(width, height, scheme)
        self._loaded = False
        self.call("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._loaded:
            self._read(deadline)

    def set_window(self, width: int, height: int = 900, scheme: str = "light") -> None:
        """Change the size of the window and the colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or of its promise once that is resolved."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self.value(condition):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.05)

    def drag(self, selector: str, start: float, end: float) -> None:
        """Drag the mouse over an element, from one share of its width to another."""
        self.value(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.value(f"(() => {{const b = document.querySelector({selector!r}).getBoundingClientRect();"
                         "return [b.left, b.top, b.width, b.height]})()")  # fmt: skip
        y = box[1] + box[3] / 2
        for kind, share in (
            ("mouseMoved", start),
            ("mousePressed", start),
            ("mouseMoved", end),
            ("mouseReleased", end),
        ):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=box[0] + share * box[2],
                y=y,
                button="none" if kind == "mouseMoved" and share == start else "left",
                buttons=0 if kind == "mouseReleased" else 1,
                clickCount=1 if kind != "mouseMoved" else 0,
            )

    def picture(self, path: Path, *, clip: dict[str, float] | None = None) -> None:
        """Write a PNG of the whole page, or of a part of it."""
        options = {"clip": {**clip, "scale": 1}} if clip else {}
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, **options)
        path.write_bytes(base64.b64decode(answer["data"]))
