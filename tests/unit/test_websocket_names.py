"""A connection's channel name, and back."""

from __future__ import annotations

import base64

import pytest
from channels.layers import BaseChannelLayer
from hypothesis import given
from hypothesis import strategies as st

from serverless.websockets.errors import ChannelNameError, EventError
from serverless.websockets.names import MOST_CHARACTERS, PREFIX, channel_name, connection_id

#: Three characters a byte is what an id becomes at most.
ids = st.text(min_size=1, max_size=30).filter(lambda text: len(text.encode("utf-8", "surrogatepass")) <= 30)


@given(st.binary(min_size=1, max_size=11).map(lambda raw: base64.b64encode(raw).decode()))
def test_ids_as_api_gateway_makes_them_come_back_from_their_names(made: str):
    assert connection_id(channel_name(made)) == made


@given(ids)
def test_every_id_comes_back_from_a_name_that_channels_allows(made: str):
    name = channel_name(made)
    assert BaseChannelLayer().require_valid_channel_name(name)
    assert name.isascii()
    assert connection_id(name) == made


@given(ids, ids)
def test_two_ids_never_share_a_name(one: str, other: str):
    assert (channel_name(one) == channel_name(other)) == (one == other)


@given(st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_.\-]*", fullmatch=True)).map(lambda text: PREFIX + text))
def test_a_connection_has_one_name_and_what_is_none_is_refused(name: str):
    try:
        found = connection_id(name)
    except ChannelNameError as error:
        assert error.channel == name
        assert isinstance(error, TypeError)
    else:
        assert channel_name(found) == name


@pytest.mark.parametrize("made", ["", "x" * (MOST_CHARACTERS - len(PREFIX) + 1), "=" * 40])
def test_an_id_that_makes_no_name_is_refused(made: str):
    with pytest.raises(EventError, match="API Gateway's ids have 16"):
        channel_name(made)


def test_the_longest_id_fits():
    assert (
        len(channel_name("x" * (MOST_CHARACTERS - len(PREFIX))))
        == MOST_CHARACTERS
        == BaseChannelLayer.MAX_NAME_LENGTH - 1
    )


def test_what_only_looks_like_a_second_name_of_a_connection_is_refused():
    assert connection_id("apigw.ws!A_3d") == "A="
    for other in ("apigw.ws!A_3D", "apigw.ws!_41_3d", "apigw.ws!A_3d\n", "apigw.ws!A="):
        with pytest.raises(ChannelNameError):
            connection_id(other)
