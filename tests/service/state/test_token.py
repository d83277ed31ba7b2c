"""State tokens: what was sealed opens, and nothing else does."""

from __future__ import annotations

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import SettingsError, StateError, StateExpired, StateInvalid
from service.state.keys import KeyRing, load_or_create_key
from service.state.token import Form, Sealer

KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.urlsafe_b64encode(bytes(32)).decode()
MODEL = b"m" * 16
NOW = 1_700_000_000.0


def sealer(*keys: str, now: float = NOW) -> Sealer:
    return Sealer(KeyRing(keys or (KEY,)), ttl_s=60, skew_s=60, clock=lambda: now)


def seal(with_sealer: Sealer, payload: bytes = b"state", tenant: str = "", form: Form = Form.EXACT) -> bytes:
    token, _ = with_sealer.seal(payload, form=form, session_id=b"s" * 16, step=7, fingerprint=MODEL, tenant=tenant)
    return token


def open_(with_sealer: Sealer, token: bytes, tenant: str = "", longest: int = 5) -> bytes:
    with_sealer.maker(token, longest_payload_bytes=longest)
    return with_sealer.open(token, tenant=tenant).payload


@given(
    payload=st.binary(max_size=200),
    form=st.sampled_from(Form),
    session_id=st.binary(min_size=16, max_size=16),
    step=st.integers(0, 2**64 - 1),
)
def test_what_was_sealed_opens_exactly(payload: bytes, form: Form, session_id: bytes, step: int) -> None:
    ours = sealer()
    token, expires_ms = ours.seal(
        payload, form=form, session_id=session_id, step=step, fingerprint=MODEL, tenant="acme"
    )
    assert len(token) % 3 == 0
    assert ours.maker(token, longest_payload_bytes=len(payload)) == MODEL
    session = ours.open(token, tenant="acme")
    assert (session.payload, session.form, session.id, session.step) == (payload, form, session_id, step)
    assert session.expires_ms == expires_ms == int(NOW * 1000) + 60_000


def test_two_tokens_of_one_state_differ() -> None:
    ours = sealer()
    assert seal(ours) != seal(ours)


def test_no_two_tokens_are_encrypted_alike() -> None:
    ours = sealer()
    tokens = [seal(ours) for _ in range(5000)]
    assert len({token[21:45] for token in tokens}) == len(tokens)
    assert len({token[45:] for token in tokens}) == len(tokens)


@pytest.mark.parametrize("form", Form)
def test_every_changed_byte_is_refused(form: Form) -> None:
    ours = sealer()
    token = seal(ours, form=form)
    for place in range(len(token)):
        for flip in (1, 128, 255):
            with pytest.raises(StateInvalid):
                open_(ours, token[:place] + bytes([token[place] ^ flip]) + token[place + 1 :])


@pytest.mark.parametrize("form", Form)
def test_every_truncation_and_extension_is_refused(form: Form) -> None:
    ours = sealer()
    token = seal(ours, form=form)
    for length in range(len(token)):
        with pytest.raises(StateInvalid):
            open_(ours, token[:length])
    for longer in (token + b"A", token * 2, b" " + token):
        with pytest.raises(StateInvalid):
            open_(ours, longer, longest=10_000)


def test_an_oversized_token_is_refused_by_its_length_alone() -> None:
    with pytest.raises(StateInvalid) as refused:
        open_(sealer(), bytes(10_000))
    assert refused.value.reason == "too_long"


def test_another_tenant_s_token_is_refused() -> None:
    ours = sealer()
    token = seal(ours, tenant="acme")
    assert open_(ours, token, tenant="acme") == b"state"
    for tenant in ("", "acm", "acme ", "other"):
        with pytest.raises(StateInvalid):
            open_(ours, token, tenant=tenant)


def test_a_token_expires_at_its_time_and_not_before() -> None:
    token = seal(sealer(now=NOW))
    assert open_(sealer(now=NOW + 59.999), token) == b"state"
    with pytest.raises(StateExpired):
        open_(sealer(now=NOW + 60), token)


def test_the_first_key_seals_and_every_key_opens() -> None:
    old = seal(sealer(KEY))
    rotated = sealer(OTHER_KEY, KEY)
    assert open_(rotated, old) == b"state"
    with pytest.raises(StateInvalid) as refused:
        open_(sealer(KEY), seal(rotated))
    assert refused.value.reason == "unknown_key"


def test_a_client_is_never_told_why_a_token_is_invalid() -> None:
    ours = sealer()
    token = seal(ours)
    messages = set()
    for wrong in (token[:-4], token[:-1] + b"!", b"B" + token[1:], token[:8] + b"AAAA" + token[12:], b""):
        with pytest.raises(StateError) as refused:
            open_(ours, wrong)
        messages.add(str(refused.value))
    assert len(messages) == 1


@pytest.mark.parametrize("key", ["", "short", "!" * 43, KEY[:-2], "\u00e9" * 43])
def test_a_key_that_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(SettingsError, match="token key 1 of 1"):
        KeyRing([key])


def test_the_key_file_is_private_and_the_same_for_all_workers(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with ThreadPoolExecutor(8) as workers:
        found = list(workers.map(lambda _: load_or_create_key(directory), range(32)))
    assert len({key for key, _ in found}) == 1
    assert sum(created for _, created in found) == 1
    assert [file.name for file in directory.iterdir()] == ["token.key"]
    assert stat.S_IMODE((directory / "token.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    KeyRing([found[0][0]])


def test_a_key_file_that_others_can_read_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    load_or_create_key(tmp_path)
    file = tmp_path / "token.key"
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_or_create_key(tmp_path)
    file.chmod(0o600)
    file.write_text("damaged")
    with pytest.raises(SettingsError, match=r"token\.key is not 32 bytes of base64url$"):
        load_or_create_key(tmp_path)


def test_a_state_directory_that_cannot_be_used_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="BATON_STATE_DIR"):
        load_or_create_key(tmp_path / "file")
