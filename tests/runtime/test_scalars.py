import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.scalars import parse_date, parse_place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("37.68,-75.655", (37.68, -75.655)),
        (" -90 , 180 ", (-90.0, 180.0)),
        ("+.5,-0.", (0.5, 0.0)),
    ],
)
def test_a_place_is_latitude_then_longitude(text: str, place: tuple[float, float]) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize("text", ["", "12", "12,13,14", "north,south", "nan,0", "inf,0", "1_0,2", "12 13", "1e1,2"])
def test_text_that_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"is no place; expected latitude,longitude") as error:
        parse_place(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["90.01,0", "-151.2,-33.9", "0,180.5"])
def test_a_place_off_the_globe_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="off the globe"):
        parse_place(text)


def test_a_date_is_year_month_day() -> None:
    assert parse_date(" 2024-02-29 ") == (2024, 2, 29)


@pytest.mark.parametrize("text", ["", "yesterday", "20240229", "2024-2-9", "29-02-2024", "2024-W09-4", "2024-02-29T10"])
def test_text_that_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is no date; expected YYYY-MM-DD"):
        parse_date(text)


@pytest.mark.parametrize("text", ["2023-02-29", "2024-13-01", "2024-06-31"])
def test_a_date_that_the_calendar_lacks_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is not in the calendar"):
        parse_date(text)


@pytest.mark.parametrize("text", ["1949-12-31", "2051-01-01"])
def test_a_year_that_the_model_cannot_express_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="1950 to 2050"):
        parse_date(text)
