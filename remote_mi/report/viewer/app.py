"""The viewer's app: what the keys do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from rich.text import Text
from textual import on
from textual.app import SystemCommand
from textual.screen import Screen
from textual.widgets import Input

from remote_mi.common.errors import RemoteMIError
from remote_mi.common.text import line
from remote_mi.report.kinds.kind import Points
from remote_mi.report.viewer import keys, pages
from remote_mi.report.viewer.base_view import BaseView
from remote_mi.report.viewer.finding import (
    find_in_listing,
    find_in_map,
    parse_rows,
)
from remote_mi.report.viewer.header_footer import DARK, LIGHT, PanelLine, export
from remote_mi.report.viewer.list_panel import ListPanel
from remote_mi.report.viewer.panel import FigurePanel
from remote_mi.report.viewer.panes import Pane
from remote_mi.store.run_folder import RunFolder

#: Names of the actions bound to the viewer's own keys.
_ACTIONS = {key.action.partition("(")[0] for key in keys.ALL} | {"number"}
#: The actions that are available whatever page is on top.
_ALWAYS = {"interrupt"}
#: Exit code after Ctrl-C.
INTERRUPTED = 130


class Viewer(BaseView):
    """Shows a run, with lists of runs, studies and jobs; see `BaseView` for the arguments."""

    _asking = ""
    _matches: list[Any]
    _match = _rank = -1

    # Moving.

    @property
    def _points(self) -> Points | None:
        """The points that the panel's own cursor moves over; None if the panel has no points."""
        try:
            return self.panel.points if isinstance(self.panel, FigurePanel) else None
        except RemoteMIError:
            return None  # `show` reports what is wrong

    def action_move(self, down: int, right: int) -> None:
        panel, points = self.panel, self._points
        if isinstance(panel, FigurePanel) and points is not None:
            panel.move(points, down, right)
            self.show()
        else:
            self.pane.move(down, right)

    def action_page(self, by: int) -> None:
        self.action_move(by * self.pane.screenful, 0)

    @on(Pane.Moved)
    def _follow_click(self) -> None:
        """Select the line that was clicked in the list below a plot."""
        listed = self.list_pane
        if self._lines and listed.display and listed.at != listed.listing.start:
            self.action_move(listed.at - listed.listing.start, 0)

    def action_largest(self, by: int) -> None:
        """Go to the most prominent cell; when pressed again, to the next one."""
        grid, panel = self.grid, self.panel
        points = self._points
        ranked: Sequence[tuple[int, int]]
        if isinstance(panel, FigurePanel) and points is not None:
            ranked, at = points.ranked, panel.at
        elif grid.display and grid.map is not None:
            rows = set(grid.rows)
            ranked, at = [x for x in grid.map.ranked if x[0] in rows], (grid.row, grid.column)
        else:
            self.pane.move(by, 0)
            return
        if not ranked:
            self.show_message("every cell is at its neutral value")
            return
        if self._rank >= 0 and ranked[self._rank % len(ranked)] == at:
            self._rank = (self._rank + by) % len(ranked)
        else:
            self._rank = 0
        self._go(ranked[self._rank])

    def _go(self, at: tuple[int, int] | int) -> None:
        """Put the cursor on a cell, a point of a line, or a line of a list."""
        panel, grid, listed = self.panel, self.grid, self.list_pane
        if isinstance(at, int):
            if listed.display and at < listed.listing.count:
                listed.place_cursor(at)
        elif grid.display:
            grid.place_cursor(*at)
        elif isinstance(panel, FigurePanel):
            panel.at = at
            self.show()

    # The input box: text to find, or rows to zoom to.

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether a key is active: the input box and a page on top take keys first."""
        if action not in _ACTIONS:
            return True
        if action in _ALWAYS:
            return True
        return len(self.screen_stack) == 1 and (not self._asking or action == "back")

    def _open_input(self, what: str, hint: str) -> None:
        self._asking = what
        box = self.input_box
        box.placeholder, box.value, box.display = hint, "", True
        self.screen.set_focus(box)

    def _close_input(self) -> None:
        self._asking = ""
        box = self.input_box
        box.display = False
        self.set_focus(None)

    @on(Input.Submitted, "#ask")
    def _handle_answer(self, event: Input.Submitted) -> None:
        asking = self._asking
        self._close_input()
        if asking == "find":
            self._find(event.value)
        else:
            self._zoom(event.value)

    def action_find(self) -> None:
        self._open_input("find", "find a token, row or word; Enter searches, Esc cancels")

    def _find(self, query: str) -> None:
        grid, listed, points = self.grid, self.list_pane, self._points
        self._matches, self._match = [], -1
        if not query:
            return
        if points is not None:
            assert isinstance(self.panel, FigurePanel)
            self._matches = self.panel.callbacks.matches(points, query, listed.at)
        elif grid.display and grid.map is not None:
            matches = find_in_map(grid.map, query, (grid.row, grid.column))
            shown_rows = set(grid.rows)
            self._matches = [at for at in matches if at[0] in shown_rows]
        else:
            self._matches = find_in_listing(listed.listing, query)
        if not self._matches:
            self.show_message(f"no match for {line(query)[:60]!r}", "warning")
            return
        self.action_match(1)

    def action_match(self, by: int) -> None:
        """Go to the next match."""
        if not getattr(self, "_matches", []):
            self.show_message("there are no matches yet; / searches")
            return
        self._match = (self._match + by) % len(self._matches)
        self._go(self._matches[self._match])

    def action_zoom(self) -> None:
        grid = self.grid
        if not grid.display or grid.map is None:
            self.show_message("this panel has no rows to zoom to")
            return
        self._open_input("zoom", f"{grid.map.grid.row_name}s to show, e.g. 18-24; empty shows all")

    def _zoom(self, entry: str) -> None:
        panel, grid = self.panel, self.grid
        if not isinstance(panel, FigurePanel) or grid.map is None:
            return
        window = parse_rows(entry, grid.map.grid.rows) if entry.strip() else None
        if entry.strip() and window is None:
            name = grid.map.grid.row_name
            self.show_message(f"this figure has no {name}s {line(entry)[:60]!r}", "warning")
            return
        panel.window = window
        self.show()

    # Choosing the panel and the slice.

    def action_panel(self, by: int) -> None:
        self.turn_to((self.at + by) % len(self.panels))

    def action_number(self, number: int) -> None:
        if number <= len(self.panels):
            self.turn_to(number - 1)

    @on(PanelLine.Picked)
    def _show_picked_panel(self, event: PanelLine.Picked) -> None:
        self.turn_to(event.index)

    def turn_to(self, index: int) -> None:
        """Show another panel; a list is loaded when it is first shown."""
        self.at, self._matches, self._rank = index, [], -1
        title = self.panel.title if isinstance(self.panel, ListPanel) else ""
        if title == "Runs":
            if not self.runs.names:
                self.runs.reread()
            self._read_rows()
        elif title == "Jobs":
            self._read_jobs()
        self.show()

    def _redraw(self, problem: str) -> None:
        """Show the changed figure, or a message that says why nothing changed."""
        self._matches, self._rank = [], -1
        self.show()
        if problem:
            self.show_message(problem)

    def action_metric(self, by: int) -> None:
        if isinstance(self.panel, FigurePanel):
            self._redraw(self.panel.next_variant(by))

    def action_slice(self, what: str, by: int) -> None:
        panel = self.panel
        if not isinstance(panel, FigurePanel):
            return
        if what == "pair":
            self._redraw(panel.step_pair(by))
            return
        dim = panel.dim_for_key(what)
        if dim is None:
            named = {"layer": "layer", "component": "head or component"}.get(
                what, "other dimension"
            )
            self.show_message(f"the whole figure is shown: there is no {named} to choose")
            return
        self._redraw(panel.step_dim(dim, by))

    # Runs.

    def action_choose(self) -> None:
        """Open the run or study under the cursor."""
        listed = self.list_pane
        item = listed.item if listed.display else None
        if item is not None and item.study:
            self.study = item.study
            self.show()
        if item is None or item.run is None:
            return
        if not RunFolder(item.run).is_run:
            self.show_message(
                f"{line(item.run.name)} no longer exists; r reloads the list", "warning"
            )
            return
        self.open(item.run)
        self.show()
        if self.opened.unchecked:
            self._check(self.opened)

    @on(Pane.Chosen)
    def _open_chosen(self) -> None:
        self.action_choose()

    def action_mark(self) -> None:
        listed = self.list_pane
        run = listed.item.run if listed.display else None
        run = run or self.opened.folder
        marked = self.runs.marked
        if run in marked:
            marked.remove(run)
            self.show_message(f"{line(run.name)} is no longer marked")
        else:
            marked.append(run)
            del marked[:-2]  # two runs can be compared
            self.show_message(
                f"{line(run.name)} is marked" + ("; = compares" if len(marked) == 2 else "")
            )
        self.show()

    def action_compare(self) -> None:
        if not self.runs_to_compare:
            self.show_message("first mark two runs with x, e.g. in the panel Runs", "warning")
            return
        self.turn_to(next(i for i, p in enumerate(self.panels) if p.title == "Compare"))

    def action_reload(self) -> None:
        self.runs.reread()
        self.turn_to(self.at)

    # Copying and exporting.

    def action_copy(self, what: str) -> None:
        grid = self.grid
        if what == "command":
            text = pages.repeat_command(self.opened)
        elif grid.display and grid.map is not None:
            there = grid.map.distance.size
            text = " · ".join(grid.map.explain(grid.row, grid.column)) if there else ""
        else:
            item = self.list_pane.item
            text = item.copy_text or " · ".join(item.explanation)
        if not text:
            self.show_message("there is nothing here to copy")
            return
        self.copy_to_clipboard(text)
        self.show_message(f"copied: {line(text)[:200]}")

    def action_export(self) -> None:
        """Export the screen as SVG and as text, to the project's exports folder."""
        name = f"{self.opened.name}-{self.panel.title}"
        try:
            picture, text = export(self, self.project / "exports", name, line(name))
        except OSError as error:
            self.show_message(f"export failed: {error.strerror or error}", "error")
            return
        self.show_message(f"exported {picture.parent.name}/{picture.name} and {text.suffix}")

    def action_words(self) -> None:
        panel = self.panel
        if not isinstance(panel, FigurePanel):
            self.show_message("this panel is text already")
            return
        try:
            sentences = panel.sentences()
        except RemoteMIError as error:
            sentences = [str(error)]
        self.push_screen(keys.Page(line(panel.current.name), Text("\n\n".join(sentences))))

    # The viewer.

    def action_dark(self) -> None:
        self.theme = LIGHT if self.theme == DARK else DARK
        self.call_after_refresh(self.show)  # widgets have the new styles only then

    def action_interrupt(self) -> None:
        """Quit with the exit code for an interrupt, as every command does."""
        self.exit(return_code=INTERRUPTED)

    def action_help(self) -> None:
        self.push_screen(keys.Page("Keys of the viewer", keys.help_text()))

    def action_back(self) -> None:
        if self._asking:
            self._close_input()
        elif self.study and self.panel.title == "Studies":
            self.study = ""
            self.show()

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        """Every key and every panel as a command of the palette."""
        for key in keys.ALL:
            if key.action not in ("digit", "command_palette"):
                name = key.text[0].upper() + key.text[1:]
                yield SystemCommand(name, f"key {key.label}", partial(self.run_action, key.action))
        for index, panel in enumerate(self.panels):
            title = line(panel.title)
            yield SystemCommand(
                f"Go to panel {index + 1}, {title}", f"show {title}", partial(self.turn_to, index)
            )
