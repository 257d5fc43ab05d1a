"""Headers, named secrets and users without a scheme are hidden; ordinary text, code and templates stay."""

from __future__ import annotations

import time

import pytest

from configs.addresses import shown_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: ApiKey SEC", "Authorization: ***"),
        ("Authorization: Negotiate SEC refused", "Authorization: *** refused"),
        ("authorization: NTLM SEC, then", "authorization: ***, then"),
        ("Authorization: SharedKey me:SEC=", "Authorization: ***"),
        ('Authorization: Digest username="SEC", response="SEC"', "Authorization: ***"),
        ('Authorization: Digest username="SEC", qop=SEC, nc=SEC and', "Authorization: *** and"),
        ("Proxy-Authorization: Basic bWU6cHc= refused", "Proxy-Authorization: *** refused"),
        ("{b'authorization': b'Bearer SECletters'}", "{b'authorization': b'***'}"),
        ("[('Authorization', 'Bearer SECletters')]", "[('Authorization', '***')]"),
        ("[(b'Authorization', b'Bearer SECletters')]", "[(b'Authorization', b'***')]"),
        ("{'Authorization': ['Bearer SECletters']}", "{'Authorization': ['***']}"),
        ("""{'Authorization': 'Digest username="SEC", x="SEC"', 'b': 1}""", "{'Authorization': '***', 'b': 1}"),
        ('{"Authorization": "Digest username=\\"SEC\\"", "b": 1}', '{"Authorization": "***", "b": 1}'),
        ('{\\"Authorization\\": \\"Bearer SECx y\\"}', '{\\"Authorization\\": \\"***\\"}'),
        ("{'X-Api-Key': 'SEC'}", "{'X-Api-Key': '***'}"),
        ("Authorization: Custom SECvalue1 is wrong", "Authorization: *** is wrong"),
        ('Authorization: Signature keyId="SEC",signature="SEC"', "Authorization: ***"),
        ("os.environ['HF_TOKEN'] = 'SEC'", "os.environ['HF_TOKEN'] = '***'"),
        ("at \\/\\/me:SEC@host/x", "at \\/\\/host/x"),
        ("Bearer SECletters is wrong", "Bearer *** is wrong"),
        ("Basic bWU6cHdk is wrong", "Basic *** is wrong"),
        ('connect(password="SEC")', 'connect(password="***")'),
        ("api_key='SEC', x=1", "api_key='***', x=1"),
        ("f(token='SEC with blanks')", "f(token='***')"),
        ('a "token=\\"SEC\\"" b', 'a "token=\\"***\\"" b'),
        ("HF_TOKEN = 'SEC'", "HF_TOKEN = '***'"),
        ("{'password': 'SECSEC', 'n': 1}", "{'password': '***', 'n': 1}"),
        (f"{'a' * 60}hf_{'S' * 30}_x", f"{'a' * 60}***_x"),
        ("root:hunter22@db.example.org/x", "db.example.org/x"),
        ("me:pw@localhost:8080", "localhost:8080"),
        ("me:hunter22@db/prod", "db/prod"),
        ("url: /v1/x?a=1&sig=SEC (refused)", "url: /v1/x (refused)"),
    ],
)
def test_credentials_are_hidden(text: str, shown: str) -> None:
    assert shown_text(text) == shown
    assert shown_text(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "basic training1 and Basic training; the bearer of news; Bearer authentication is needed",
        "Basic JavaScript, the basic tokenizer",
        "the authorization, which it needs",
        "def f(token=None, password=None): MAX_TOKEN=5, max_tokens=512, token=True",
        "f(token=self.token, api_key=config.hub.api_key)",
        "HfApi(token=token); WHERE token=? AND password=%s",
        "pad_token='<pad>', EOS_TOKEN='</s>', MASK_TOKEN='[MASK]'",
        "ratio 3:1@x",
        "12:30@noon",
        "contact:bob@example.org",
        "mailto:alice@example.org ?x=1",
        "lambda x:x@y",
        "{% if a:b@c %}",
        "embedded:english-to-sql@x",
        "@app.route('/a?b=1')",
        "WHERE a=?b=2",
        "C:\\new\\table\\x?y=1",
        "rows:train@v2.jsonl",
        "first token: 'Hello'",
        "a@b:c and x = A@B:d",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert shown_text(text) == text


PARTS = ["a", "a:", "a@", "/", "a.", "?", "?a=1&", "token=", "password='", "Authorization: ", "//a", "x-", "Basic a"]
PARTS += ["https://", "https:%2F%2F", "https://a ", "https://a'", "a::https://", "https%253A", "'token':'", "a:b@c:"]


@pytest.mark.parametrize("part", PARTS)
def test_long_texts_take_no_long_time(part: str) -> None:
    began = time.process_time()
    shown_text(part * (20_000 // len(part)))
    assert time.process_time() - began < 2


def test_an_address_within_very_many_others_is_hidden() -> None:
    assert shown_text("https://a/" * 5000 + "x?k=SEC") == "https://***"
    assert shown_text("https://" * 5000 + "me:SEC@h/x") == "https://h/x"
