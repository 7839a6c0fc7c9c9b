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
    opened = Task.from_rows(rows, input="text", target="id", labels="none")
    assert opened.notes == (), "open answers to different inputs are what they should be"
