"""Messages name the problem and the remedy, however long the values they quote."""

from __future__ import annotations

from zoo.errors import DataError, all_shown, first_line, for_terminal, shown


def test_a_long_message_is_cut_in_the_middle() -> None:
    assert str(DataError("a table, line 3: x is wrong. Change it.")) == "a table, line 3: x is wrong. Change it."
    message = str(DataError(f"a table, line 3: {'x' * 10_000} is wrong. Change it."))
    assert message.startswith("a table, line 3: xxx") and message.endswith("xxx is wrong. Change it.")
    assert " [...] " in message and len(message) == 440 + 7 + 220
    assert len(first_line(ValueError("y" * 10_000 + "\nmore"))) == 443


def test_long_values_and_lists_are_cut_off() -> None:
    assert shown("it's\n") == '"it\'s\\n"'
    assert shown("x" * 100) == f"'{'x' * 59}..."
    assert all_shown(["a", "b" * 61]) == f"a, {'b' * 60}..."
    assert all_shown([str(number) for number in range(20)], most=3) == "0, 1, 2, 17 more"


def test_a_terminal_shows_names_and_does_not_obey_them() -> None:
    name = "a\x1b[31m\x07\r\u202eb\udcff\nd\té東"
    assert for_terminal(name) == "a\\x1b[31m\\x07\\r\\u202eb\\udcff\nd\té東"
    assert for_terminal(name, on_one_line=True) == "a\\x1b[31m\\x07\\r\\u202eb\\udcff\\nd\\té東"
