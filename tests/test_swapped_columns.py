"""A table that is read the wrong way round: classes as inputs, and texts as answers."""

from headstart.tasks import Task

CLASSES = ("billing", "delivery", "login", "refund")


def test_columns_that_are_the_wrong_way_round_are_suspected() -> None:
    rows = [
        {
            "id": f"T-{number:04}",
            "text": f"My {CLASSES[number % 4]} broke on day {number}",
            "label": CLASSES[number % 4],
        }
        for number in range(200)
    ]
    (note,) = Task.from_rows(rows, input="label", target="text").notes
    assert note == (
        "There are only 4 distinct inputs (billing, delivery, login, …), and hardly an answer is given twice; if the "
        "columns are the wrong way round, exchange input and target (--input, --target)"
    )
    turned = [{"question": row["text"], "answer": f"it is {row['id']}"} for row in rows]
    opened = Task.from_rows(turned, input="question", target="answer", labels="none")
    assert opened.notes == (), "open answers to different inputs are what they should be"


def test_inputs_that_look_like_ids_are_suspected() -> None:
    rows = [
        {"id": f"T-{n}", "word": "abcdefghij"[n // 10] + "xyzuvwrstq"[n % 10], "label": CLASSES[n % 4]}
        for n in range(40)
    ]
    first, labels = Task.from_rows(rows, input="id", target="label").notes
    assert first == (
        "Every input is one word with a digit, and none is given twice (T-0, T-1, …), like a column of ids; if another "
        "column holds the text, name it as input (--input)"
    )
    assert labels.startswith("4 distinct targets are taken for labels")
    assert len(Task.from_rows(rows, input="word", target="label").notes) == 1, "words are not ids"
    assert Task.from_rows(rows[:19], input="id", target="label").notes == (), "too few to say so"
    assert len(Task.from_rows([*rows, rows[0]], input="id", target="label").notes) == 1, "one is given twice"


def test_answers_that_look_like_ids_are_suspected() -> None:
    rows = [
        {"text": f"My {CLASSES[n % 4]} broke on day {n}", "id": f"T-{n}", "row": n, "share": n / 7, "day": f"day {n}"}
        for n in range(40)
    ]
    (note,) = Task.from_rows(rows, input="text", target="id").notes
    assert note == (
        "No answer is given twice, and each is one word (T-0, T-1, …), like a column of ids; if another column holds "
        "the answers, name it as target (--target)"
    )
    assert "one word (0, 1, …)" in Task.from_rows(rows, input="text", target="row").notes[0]
    for target, more in (("share", {}), ("row", {"metric": "Pearson-Correlation"}), ("day", {})):
        assert Task.from_rows(rows, input="text", target=target, **more).notes == (), target
    assert Task.from_rows([*rows, rows[0]], input="text", target="id").notes == (), "one is given twice"
    assert Task.from_rows(rows[:19], input="text", target="id").notes == (), "too few to say so"
