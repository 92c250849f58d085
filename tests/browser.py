"""Looks at the agent's page in headless Chromium, over its DevTools protocol, and prints what it found as JSON.

    URL TOKEN PV HOSTILE DIRECTORY      HOSTILE is a name that somebody searches for; pictures go to DIRECTORY
"""

import base64
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

PATIENCE = 20.0
# Everything that can be reached by the keyboard, with what shows that it is there.
FOCUS = """(() => { const e = document.activeElement, s = getComputedStyle(e);
    return [e.id || e.className || e.tagName, s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2]; })()"""


class Browser:
    """A page, and what it did."""

    def __init__(self):
        theirs, self.commands = os.pipe()
        self.events, ours = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs, ours)]
        self.profile = tempfile.TemporaryDirectory()
        arguments = ["chromium-headless-shell", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu",
                     "--ignore-certificate-errors", "--disable-dev-shm-usage", "--no-first-run",
                     "--hide-scrollbars", f"--user-data-dir={self.profile.name}", "about:blank"]
        line = f'exec "$0" "$@" 3<&{ends[0]} 4>&{ends[1]}'
        self.process = subprocess.Popen(["bash", "-c", line, *arguments], pass_fds=ends,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, env={**os.environ, "HOME": self.profile.name})
        for end in (theirs, ours, *ends):
            os.close(end)
        self.buffer, self.number, self.session = b"", 0, None
        self.complaints, self.requests = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.profile.cleanup()

    def read(self):
        while b"\0" not in self.buffer:
            piece = os.read(self.events, 1 << 16)
            if not piece:
                raise SystemExit("the browser has ended")
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                return answer["result"]
            self.note(answer)

    def note(self, event):
        kind, what = event.get("method"), event.get("params", {})
        if kind == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif kind == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(what["exceptionDetails"]))
        elif kind == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")
        elif kind == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(what["args"]))

    def js(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, expression):
        end = time.monotonic() + PATIENCE
        while not self.js(f"!!({expression})"):
            if time.monotonic() > end:
                raise SystemExit(f"in vain: {expression}; the page says: {self.js('document.body.innerText')}")
            time.sleep(0.05)

    def key(self, key, code, text=None):
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def enter(self, text):
        """Writes where the focus is, and presses Enter."""
        self.call("Input.insertText", text=text)
        self.key("Enter", 13, "\r")

    def tabs(self, most):
        """What Tab visits from the beginning of the page on."""
        self.js("document.querySelector('.skip').focus()")
        stops = [self.js(FOCUS)]
        for _ in range(most):
            self.key("Tab", 9)
            stop = self.js(FOCUS)
            if stop[0] in ("BODY", stops[0][0]):
                break
            stops.append(stop)
        return stops

    def size(self, width, height, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def colours(self, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path, most):
        """Takes a picture of the page down to `most` pixels."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most), "scale": 1}
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(picture))

    def ask(self, pv):
        """Asks about a PV by the keyboard, and returns what is answered."""
        self.js("document.querySelector('#pv').value = ''; document.querySelector('#pv').focus()")
        self.enter(pv)
        self.wait("document.querySelector('#answer').getAttribute('aria-busy') === 'false'"
                  " && document.querySelector('#answer .conclusion, #answer .wrong')")
        return self.js("document.querySelector('#answer').innerText")


def look(browser, url, token, pv, hostile, directory):
    found = {}
    browser.size(1100, 900)
    browser.colours("light")
    browser.call("Page.navigate", url=url)
    browser.wait("document.activeElement && document.activeElement.id === 'token'")
    browser.enter("x" * 32)
    browser.wait("document.querySelector('#rejected').textContent !== ''")
    found["rejected"] = browser.js("document.querySelector('#rejected').textContent")
    browser.complaints.clear()  # the browser itself complains about 401
    browser.enter(token)
    browser.wait("!document.querySelector('#content').hidden && document.querySelector('#members table')")
    browser.wait(f"document.querySelector('#unanswered').innerText.includes({json.dumps(hostile[:8])})")
    browser.wait("document.querySelector('#map .circuit')")
    found["answer"] = browser.ask(pv)
    browser.picture(directory / "page-light.png", 2400)
    for place in ("state", "notices", "members", "unanswered", "duplicates", "readers", "map"):
        found[place] = browser.js(f"document.querySelector('#{place}').textContent")
    found["tabs"] = browser.tabs(40)
    browser.colours("dark")
    found["dark"] = browser.js("getComputedStyle(document.body).backgroundColor")
    browser.picture(directory / "page-dark.png", 900)
    browser.colours("light")
    browser.size(320, 640, mobile=True)
    found["narrow"] = browser.js("document.documentElement.scrollWidth")
    browser.picture(directory / "page-narrow.png", 1100)
    found["hostile"] = browser.ask(hostile)
    found["narrow_hostile"] = browser.js("document.documentElement.scrollWidth")
    found["foreign"] = browser.js("document.querySelectorAll('img, iframe, object, main script, main style').length")
    found["stored"] = browser.js("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
    found["complaints"], found["requests"] = browser.complaints, sorted(set(browser.requests))
    return found


def main():
    url, token, pv, hostile, directory = sys.argv[1:]
    browser = Browser()
    try:
        print(json.dumps(look(browser, url, token, pv, hostile, pathlib.Path(directory))))
    finally:
        browser.close()


main()
