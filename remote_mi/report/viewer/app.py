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

#: Names of the actions that keys of ours stand for.
_ACTIONS = {key.action.partition("(")[0] for key in keys.ALL} | {"number"}
#: Of those, what acts whatever is on top.
_ALWAYS = {"interrupt"}
#: Exit code after Ctrl-C.
INTERRUPTED = 130


class Viewer(BaseView):
    """Shows a run, and the runs, studies and jobs beside it; see `BaseView` for the arguments."""

    _asking = ""
    _matches: list[Any]
    _match = _rank = -1

    # Moving.

    @property
    def _points(self) -> Points | None:
        """The points of a list's lines, whose cursor is the panel's; None for any other panel."""
        try:
            return self.panel.points if isinstance(self.panel, FigurePanel) else None
        except RemoteMIError:
            return None  # showing it says what is wrong

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
        """A click in the list below a plot chooses another line."""
        listed = self.list_pane
        if self._lines and listed.display and listed.at != listed.listing.start:
            self.action_move(listed.at - listed.listing.start, 0)

    def action_largest(self, by: int) -> None:
        """The cell that stands out most; again: the next one."""
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

    # Asking: a word to find, or rows to zoom to.

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether a key acts now: the box at the bottom and a page on top take keys first."""
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
        self._open_input("find", "find a token, a row, a word; Enter looks, Esc leaves")

    def _find(self, asked: str) -> None:
        grid, listed, points = self.grid, self.list_pane, self._points
        self._matches, self._match = [], -1
        if not asked:
            return
        if points is not None:
            self._matches = points.matches(asked, listed.at)
        elif grid.display and grid.map is not None:
            found = find_in_map(grid.map, asked, (grid.row, grid.column))
            shown = set(grid.rows)
            self._matches = [at for at in found if at[0] in shown]
        else:
            self._matches = find_in_listing(listed.listing, asked)
        if not self._matches:
            self.show_message(f"nothing here says {line(asked)[:60]!r}", "warning")
            return
        self.action_match(1)

    def action_match(self, by: int) -> None:
        """The next place that was found."""
        if not getattr(self, "_matches", []):
            self.show_message("nothing was looked for; / finds a word")
            return
        self._match = (self._match + by) % len(self._matches)
        self._go(self._matches[self._match])

    def action_zoom(self) -> None:
        grid = self.grid
        if not grid.display or grid.map is None:
            self.show_message("there are no rows to zoom to")
            return
        self._open_input("zoom", f"{grid.map.grid.row_name}s to show, e.g. 18-24; empty shows all")

    def _zoom(self, asked: str) -> None:
        panel, grid = self.panel, self.grid
        if not isinstance(panel, FigurePanel) or grid.map is None:
            return
        window = parse_rows(asked, grid.map.grid.rows) if asked.strip() else None
        if asked.strip() and window is None:
            name = grid.map.grid.row_name
            self.show_message(
                f"{line(asked)[:60]!r} names no rows of this figure ({name})", "warning"
            )
            return
        panel.window = window
        self.show()

    # Choosing what is shown.

    def action_panel(self, by: int) -> None:
        self.turn_to((self.at + by) % len(self.panels))

    def action_number(self, number: int) -> None:
        if number <= len(self.panels):
            self.turn_to(number - 1)

    @on(PanelLine.Picked)
    def _show_picked_panel(self, event: PanelLine.Picked) -> None:
        self.turn_to(event.index)

    def turn_to(self, index: int) -> None:
        """Show another panel; a list is read when it is first seen."""
        self.at, self._matches, self._rank = index, [], -1
        title = self.panel.title if isinstance(self.panel, ListPanel) else ""
        if title == "Runs":
            if not self.runs.names:
                self.runs.reread()
            self._read_rows()
        elif title == "Jobs":
            self._read_jobs()
        self.show()

    def _change(self, said: str) -> None:
        """Show what was changed; the title says it, and what is said here where nothing was."""
        self._matches, self._rank = [], -1
        self.show()
        if said:
            self.show_message(said)

    def action_metric(self, by: int) -> None:
        if isinstance(self.panel, FigurePanel):
            self._change(self.panel.next_variant(by))

    def action_slice(self, what: str, by: int) -> None:
        panel = self.panel
        if not isinstance(panel, FigurePanel):
            return
        if what == "pair":
            self._change(panel.step_pair(by))
            return
        dim = panel.dim_for_key(what)
        if dim is None:
            named = {"layer": "layer", "component": "head or component"}.get(
                what, "other dimension"
            )
            self.show_message(f"all of this figure is shown: there is no {named} to choose")
            return
        self._change(panel.step_dim(dim, by))

    # Runs.

    def action_choose(self) -> None:
        """Open what the cursor stands on."""
        listed = self.list_pane
        item = listed.item if listed.display else None
        if item is not None and item.study:
            self.study = item.study
            self.show()
        if item is None or item.run is None:
            return
        if not RunFolder(item.run).is_run:
            self.show_message(
                f"{line(item.run.name)} is no longer there; r reads the list again", "warning"
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
            self.show_message("mark two runs with x first; Runs lists them", "warning")
            return
        self.turn_to(next(i for i, p in enumerate(self.panels) if p.title == "Compare"))

    def action_reload(self) -> None:
        self.runs.reread()
        self.turn_to(self.at)

    # Taking along.

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
        """A picture and a text of the screen, in the project's exports folder."""
        name = f"{self.opened.name}-{self.panel.title}"
        try:
            picture, text = export(self, self.project / "exports", name, line(name))
        except OSError as error:
            self.show_message(f"nothing was exported: {error.strerror or error}", "error")
            return
        self.show_message(f"exported {picture.parent.name}/{picture.name} and {text.suffix}")

    def action_words(self) -> None:
        panel = self.panel
        if not isinstance(panel, FigurePanel):
            self.show_message("this is words already")
            return
        try:
            said = panel.sentences()
        except RemoteMIError as error:
            said = [str(error)]
        self.push_screen(keys.Page(line(panel.current.name), Text("\n\n".join(said))))

    # The viewer.

    def action_dark(self) -> None:
        self.theme = LIGHT if self.theme == DARK else DARK
        self.call_after_refresh(self.show)  # the styles of the widgets follow only then

    def action_interrupt(self) -> None:
        """Leave, and say so in the exit code, as every command does."""
        self.exit(return_code=INTERRUPTED)

    def action_help(self) -> None:
        self.push_screen(keys.Page("The keys of the viewer", keys.help_text()))

    def action_back(self) -> None:
        if self._asking:
            self._close_input()
        elif self.study and self.panel.title == "Studies":
            self.study = ""
            self.show()

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        """Every key, by what it does."""
        for key in keys.ALL:
            if key.action not in ("digit", "command_palette"):
                name = key.text[0].upper() + key.text[1:]
                yield SystemCommand(name, f"key {key.label}", partial(self.run_action, key.action))
        for index, panel in enumerate(self.panels):
            title = line(panel.title)
            yield SystemCommand(
                f"Go to panel {index + 1}, {title}", f"show {title}", partial(self.turn_to, index)
            )
