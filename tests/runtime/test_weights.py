from copgen_edge.runtime.weights import words_for


def test_weights_that_mean_little_say_so() -> None:
    assert words_for("random").title == " (random weights)" and "mean nothing" in words_for("random").note
    small = words_for("small-world")
    assert small.title == " (small model of a made-up world)" and "science" in small.note


def test_a_checkpoint_needs_no_words() -> None:
    for kind in ("checkpoint", "something else"):
        assert (words_for(kind).title, words_for(kind).note) == ("", "")
