"""The tables of webhooks in the configuration file: what is accepted, and what a refusal says."""

import base64
from pathlib import Path

import pytest

from eventstore.errors import ConfigurationError
from muster.settings.loading import load

KEY = bytes(range(24))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
URL = 'url = "https://example.com/alerts"'


def settings(folder: Path, table: str, role: str = "gateway"):
    file = folder / "muster.toml"
    file.write_text(f"[webhooks.ops]\n{table}\n")
    return load({"config": file}, {}, role)


def test_a_webhook_has_an_address_and_a_secret(tmp_path: Path) -> None:
    found = settings(tmp_path, f'{URL}\nsecret = "{SECRET}"\npools = ["p"]\nseverity = "critical"')
    webhook = found.webhooks["ops"]
    assert (webhook.url, webhook.secrets) == ("https://example.com/alerts", (KEY,))
    assert (webhook.pools, webhook.severity) == (("p",), "critical")
    assert found.roles, "what is built in stays"
    assert "example.com" not in repr(webhook)


def test_secrets_may_be_in_a_file_next_to_it(tmp_path: Path) -> None:
    file = tmp_path / "ops.secret"
    file.write_text(f"{SECRET}\n{SECRET}\n")
    file.chmod(0o600)
    found = settings(tmp_path, f'{URL}\nsecret_file = "ops.secret"')
    assert found.webhooks["ops"].secrets == (KEY, KEY)


def test_only_who_listens_reads_the_secrets(tmp_path: Path) -> None:
    assert settings(tmp_path, f'{URL}\nsecret_file = "elsewhere"', "projector").webhooks == {}


@pytest.mark.parametrize(
    ("table", "refusal"),
    [
        ("", "[webhooks.ops] url: expected an address"),
        ('url = "ftp://x"', "[webhooks.ops] url: expected an address"),
        ('url = "https://x:99999"', "[webhooks.ops] url: expected an address"),
        (URL, "[webhooks.ops]: expected either secret or secret_file"),
        (f'{URL}\nsecret = "{SECRET}"\nsecret_file = "x"', "expected either secret or"),
        (f'{URL}\nsecret = "abc"', "secret: a secret begins with whsec_"),
        (f'{URL}\nsecret = "whsec_!"', "secret: a secret is Base64 after whsec_"),
        (f'{URL}\nsecret = "whsec_YWJj"', "24 to 64 bytes, this one has 3"),
        (f'{URL}\nsecret = " "', "secret: it has no secret"),
        (f'{URL}\nsecret_file = "none"', "No such file"),
        (f'{URL}\nsecret = "{SECRET}"\nseverity = "bad"', "severity: expected warning or critical"),
        (f'{URL}\nsecret = "{SECRET}"\npools = "p"', "pools: expected a list"),
        (f'{URL}\nsecrets = "{SECRET}"', "unknown key 'secrets'; did you mean `secret`?"),
    ],
)
def test_a_refusal_names_what_is_wrong(tmp_path: Path, table: str, refusal: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        settings(tmp_path, table)
    assert refusal in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_file_that_all_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ops.secret"
    file.write_text(SECRET)
    file.chmod(0o644)
    with pytest.raises(ConfigurationError, match="can be read by all users: chmod 600"):
        settings(tmp_path, f'{URL}\nsecret_file = "ops.secret"')
