"""ComfyUI's page in a headless Chromium: open workflows, queue them, collect what goes wrong."""

import importlib.util
import json
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
READY = "() => window.app?.vueAppReady && window.app.canvas && window.app.graph"
ASKED_IN_VAIN = ("user.css", "/api/userdata", "/api/settings", "filename=&")
ASKED_IN_VAIN += ("/api/workflow_templates", "Comfy-Org/z_image_turbo")
"""Requests of a new user's page that fail: files not saved yet, that of Load Audio before one is chosen,
thumbnails, the weights of the default workflow."""

EMPTY: dict[str, Any] = {
    "nodes": [], "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4,
    "last_node_id": 0, "last_link_id": 0,
}  # fmt: skip
MIDDLE = (1000, 600)
NODES_2 = "Comfy.VueNodes.Enabled"
GREETINGS = {"Comfy.TutorialCompleted": True, "Comfy.OnboardingCoachmarks.Seen": ["appMode", "firstRun"]}
"""Settings of a user who has closed them."""

OPEN = "async ([workflow, name]) => { await app.loadGraphData(workflow, true, true, name); }"
EXPORT = """async () => {
  const exported = await app.graphToPrompt();
  return JSON.stringify([exported.workflow, exported.output]);
}"""
SELECT = """type => {
  app.canvas.selectNode(app.graph.nodes.find(node => node.type === type));
  app.canvas.setDirty(true, true);
}"""
BROKEN = """() => {
  const found = [];
  for (const node of app.graph.nodes) {
    if (!(node.type in LiteGraph.registered_node_types)) found.push(`missing node ${node.type}`);
    if (node.has_errors) found.push(`${node.type} has errors`);
    for (const input of node.inputs ?? []) {
      if (input.link == null) continue;
      const link = app.graph.links.get(input.link);
      const from = link && app.graph.getNodeById(link.origin_id);
      const type = from?.outputs[link.origin_slot]?.type;
      if (type !== input.type) found.push(`${node.type}.${input.name}: ${type} for ${input.type}`);
    }
  }
  return found;
}"""
BOXES = """() => {
  const written = note => note.querySelector('.ProseMirror').lastElementChild.offsetTop
    + note.querySelector('.ProseMirror').lastElementChild.offsetHeight + 30;
  return app.graph.nodes.map(node => ({
  name: node.title, box: Array.from(node.boundingRect), high: node.size[1],
  least: node.type === 'MarkdownNote' ? written(node.widgets[0].element) : node.computeSize()[1],
  }));
}"""
GROUPS = """() => app.graph.groups.map(group => ({
  name: group.title, box: Array.from(group.boundingRect ?? group._bounding),
}))"""
SHOWN = """() => [...document.querySelectorAll(
  '[data-testid="error-overlay"], [data-testid="error-dialog"], [role="dialog"], [role="alert"]'
)].filter(shown => shown.checkVisibility()).map(shown => shown.textContent.trim().slice(0, 200))"""
ENDED = """() => new Promise(resolve => {
  for (const name of ['execution_success', 'execution_error', 'execution_interrupted'])
    app.api.addEventListener(name, event => resolve([name, event.detail]), { once: true });
  document.querySelector('[data-testid="queue-button"]').click();
})"""


def find_chromium() -> str | None:
    named = os.environ.get("CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


def absent() -> str | None:
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed"
    return None if find_chromium() else "no Chromium on the path and none named by CHROMIUM"


class Page:
    """The page of a server. ``problems`` are the console's errors since it was last emptied."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.problems: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    def _heard(self, message: Any) -> None:
        text = f"{message.text} ({message.location.get('url', '')})"
        if message.type == "error" and not any(part in text for part in ASKED_IN_VAIN):
            self.problems.append(text)

    def start(self) -> None:
        self.page.goto(self.url)
        self.page.wait_for_function(READY, timeout=120_000)
        self.page.wait_for_timeout(1000)
        self.problems.clear()

    def open(self, workflow: dict[str, Any], name: str) -> None:
        self.page.evaluate(OPEN, [workflow, name])
        self.page.wait_for_timeout(1500)

    def set_nodes_2(self, on: bool) -> None:
        """An app switches them on."""
        self.page.evaluate("([name, on]) => app.extensionManager.setting.set(name, on)", [NODES_2, on])
        self.page.wait_for_timeout(500)

    def export(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The open workflow as the page saves it, and its API form."""
        return tuple(json.loads(self.page.evaluate(EXPORT)))

    def broken(self) -> list[str]:
        return self.page.evaluate(BROKEN)

    def boxes(self) -> list[dict[str, Any]]:
        """Where every node is, with its title: x, y, width, height."""
        return self.page.evaluate(BOXES)

    def groups(self) -> list[dict[str, Any]]:
        """Where every group is, with its title."""
        return self.page.evaluate(GROUPS)

    def shown(self) -> list[str]:
        return self.page.evaluate(SHOWN)

    def faults(self) -> list[str]:
        """What is missing or broken, errors that are shown, and what the console says."""
        return [*self.broken(), *self.shown(), *self.problems]

    def run(self) -> dict[str, Any]:
        """Press Run and wait for its success: what that says."""
        event, detail = self.page.evaluate(ENDED)
        assert event == "execution_success", detail
        return detail

    def put(self, name: str) -> None:
        """Find something in the search box and put it in the middle of an empty workflow."""
        self.open(EMPTY, "empty")
        self.page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        self.page.keyboard.type(name)
        self.page.get_by_text(name, exact=True).first.wait_for()
        self.page.wait_for_timeout(1000)
        self.page.keyboard.press("Enter")
        self.page.wait_for_timeout(500)
        self.page.mouse.click(*MIDDLE)
        self.page.wait_for_timeout(1000)

    def open_template(self, pack: str, name: str) -> None:
        """Open a workflow as users do, from the template browser."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self.page.get_by_role("dialog").get_by_text(pack, exact=True).click()
        self.page.get_by_test_id(f"template-workflow-{name}").click()
        self.page.wait_for_timeout(2500)

    def open_help(self, node: str) -> str:
        """Select a node, press its i, and read what is shown."""
        self.page.evaluate(SELECT, node)
        self.page.locator('[data-testid="info-button"]').click()
        self.page.wait_for_timeout(1500)
        return self.page.inner_text("body")


@contextmanager
def opened(
    url: str, width: int = 2560, height: int = 1440, *, nodes_2: bool = False, previews: str = "default"
) -> Iterator[Page]:
    """The page, ready, of a user who has closed the greetings, in a fresh profile; ``nodes_2``: with nodes
    drawn as HTML; ``previews``: the preview method."""
    from playwright.sync_api import sync_playwright

    chosen = GREETINGS | {NODES_2: nodes_2, "Comfy.Execution.PreviewMethod": previews}
    body, header = json.dumps(chosen).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/api/settings", body, header, method="POST")
    urllib.request.urlopen(request, timeout=60).close()
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        view = {"headless": True, "viewport": {"width": width, "height": height}}
        program = {"executable_path": find_chromium(), "args": ARGUMENTS}
        place = str(Path(profile) / "profile")
        context = playwright.chromium.launch_persistent_context(place, **program, **view)
        page = Page(context.pages[0], url)
        page.start()
        yield page
        context.close()
