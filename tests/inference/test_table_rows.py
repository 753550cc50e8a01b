"""Classes are ranked by their accuracy, and their sizes are described."""

from seanet_jax.inference.table_rows import best_and_worst, describe_sizes, ranked


def rows(*classes):
    return [{"name": name, "images": images, "accuracy": accuracy} for name, images, accuracy in classes]


def test_of_equal_classes_those_with_more_images_come_first():
    classes = rows(("a", 1, 0.0), ("b", 0, None), ("c", 9, 0.0), ("d", 2, 1.0), ("e", 4, 0.5), ("f", 3, 1.0))
    assert [row["name"] for row in ranked(classes)] == ["c", "a", "e", "f", "d"]
    assert [row["name"] for row in ranked(classes, best_first=True)] == ["f", "d", "e", "c", "a"]


def test_no_class_is_among_the_best_and_the_worst():
    def names(classes, most):
        return [[row["name"] for row in some] for some in best_and_worst(classes, most)]

    assert names(rows(("a", 1, 1.0), ("b", 1, 1.0), ("c", 1, 0.5), ("d", 1, 1.0)), 2) == [["a", "b"], ["c", "d"]]
    assert names(rows(("a", 1, 0.0), ("b", 1, 1.0), ("c", 1, 0.5)), 5) == [["b"], ["a"]]
    assert names(rows(("a", 1, 0.0), ("b", 1, 0.0), ("c", 1, 0.5), ("d", 1, 0.0)), 2) == [["c"], ["a", "b"]]
    assert names(rows(("a", 1, 1.0), ("b", 1, 1.0)), 5) == [[], []]
    assert names(rows(("a", 1, 1.0), ("b", 0, None)), 5) == [[], []]


def test_the_sizes_of_classes_are_described():
    for classes, words in (
        (rows(("a", 5, 1.0), ("b", 5, 0.2)), "equals top-1: 5 images in each class"),
        (rows(("a", 1, 1.0), ("b", 1, 0.0)), "equals top-1: 1 image in each class"),
        (rows(("a", 2, 1.0), ("b", 1500, 0.2)), "classes of 2 to 1,500 images"),
        (
            rows(("a", 2, 1.0), ("b", 0, None), ("c", 3, 0.0)),
            "classes of 2 to 3 images; 1 class without test images left out",
        ),
        (
            rows(("a", 2, 1.0), ("b", 0, None), ("c", 0, None)),
            "equals top-1: 2 images in each class; 2 classes without test images left out",
        ),
    ):
        assert describe_sizes(classes) == words
