"""Sources read what people have on disk, give the same documents every time, and say in one line what is broken."""

from __future__ import annotations

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from pydantic import TypeAdapter, ValidationError

from adapt.data.documents import objective_mismatch
from adapt.data.sources import SOURCES, AnySource, Files, Generator, held_out_documents, training_documents
from adapt.errors import AdaptError

ANY = TypeAdapter(AnySource)


def texts(source):
    return [document["text"] for document in source.documents()]


def error_of(source) -> str:
    with pytest.raises(AdaptError) as caught:
        list(source.documents())
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestWhichSource:
    @pytest.mark.parametrize("value", [{}, {"field": "text"}, {"files": "a", "generator": "a:b"}, "data/*.txt", None])
    def test_exactly_one_key_says_what_it_is(self, value):
        with pytest.raises(ValidationError, match="exactly one of the keys files, dataset, generator"):
            ANY.validate_python(value)

    @pytest.mark.parametrize("kind", SOURCES, ids=lambda kind: kind.key)
    def test_every_field_is_described(self, kind):
        assert all(field.description for field in kind.model_fields.values())

    def test_one_path_needs_no_brackets(self):
        assert ANY.validate_python({"files": "a.txt"}) == ANY.validate_python({"files": ["a.txt"]})

    def test_what_is_printed_is_read_again(self):
        source = ANY.validate_python({"files": "a.txt", "document": "paragraph", "held_out": "5%"})
        assert ANY.validate_python(source.model_dump(mode="json")) == source


class TestText:
    TEXT = "one\r\ntwo\n\n \nthree\u2028still three\n"

    @pytest.mark.parametrize(
        ("unit", "expected"),
        [
            ("line", ["one", "two", "three\u2028still three"]),
            ("paragraph", ["one\ntwo", "three\u2028still three"]),
            ("file", ["one\ntwo\n\n \nthree\u2028still three"]),
        ],
    )
    def test_units(self, tmp_path, unit, expected):
        path = tmp_path / "a.txt"
        path.write_bytes(self.TEXT.encode())
        assert texts(Files(files=str(path), document=unit)) == expected

    def test_gzip_and_byte_order_mark(self, tmp_path):
        with gzip.open(tmp_path / "a.txt.gz", "wb") as file:
            file.write(b"\xef\xbb\xbfone\ntwo")
        assert texts(Files(files=str(tmp_path / "a.txt.gz"))) == ["one", "two"]

    def test_folder_glob_and_list_each_file_once_in_order(self, write, tmp_path):
        for name in ("b/2.txt", "b/1.txt", "a/3.txt", "a/.hidden.txt", "a/image.png"):
            write(name, name)
        files = [str(tmp_path / "b/*.txt"), str(tmp_path / "a"), str(tmp_path / "b/2.txt")]
        assert texts(Files(files=files)) == ["b/1.txt", "b/2.txt", "a/3.txt"]

    def test_given_format_overrides_the_extension(self, write):
        assert texts(Files(files=str(write("a.log", "x")), format="txt")) == ["x"]

    def test_relative_to_the_recipe_where_the_working_directory_has_nothing(self, write, tmp_path, monkeypatch):
        write("recipes/data/a.txt", "recipe")
        write("here/b.txt", "here")
        monkeypatch.chdir(tmp_path / "here")
        source = Files(files=["data/*.txt", "b.txt"]).relative_to(tmp_path / "recipes")
        assert texts(source) == ["recipe", "here"]
        assert not list(source.missing())

    def test_line_numbers_of_bad_bytes(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_bytes(b"fine\nalso fine\nk\xe9z\n")
        assert error_of(Files(files=str(path))) == (
            f"{path}:3: not UTF-8 (byte 0xe9 at position 2); convert the file to UTF-8"
        )


class TestRows:
    def test_fields_of_jsonl(self, write):
        path = str(write("a.jsonl", '{"text": "a", "body": "b"}\n\n{"text": "c", "body": null}\n'))
        assert texts(Files(files=path)) == ["a", "c"]
        assert texts(Files(files=path, field="body")) == ["b", ""]
        assert [row["body"] for row in Files(files=path).rows()] == ["b", None]

    def test_messages_and_prompt_with_completion(self, write):
        turn = {"role": "user", "content": "hi"}
        rows = [{"messages": [turn]}, {"prompt": "a", "completion": "b"}, {"prompt": [turn], "completion": [turn]}]
        path = str(write("a.jsonl", "\n".join(map(json.dumps, rows))))
        assert list(Files(files=path).documents()) == rows
        path = str(write("b.jsonl", json.dumps({"chat": [turn]})))
        assert list(Files(files=path, field="chat").documents()) == [{"messages": [turn]}]

    def test_parquet_and_csv(self, tmp_path, write):
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None], "n": [1, 2]}), tmp_path / "a.parquet")
        assert texts(Files(files=str(tmp_path / "a.parquet"))) == ["a", ""]
        long = "x" * 200_000
        path = str(write("a.csv", f'n,text\n1,"two\nlines, ""quoted"""\n2,{long}\n'))
        assert texts(Files(files=path)) == ['two\nlines, "quoted"', long]
        assert texts(Files(files=str(write("a.tsv", "n\ttext\n1\ta b\n")))) == ["a b"]


class TestBrokenFiles:
    CASES = (
        ("a.jsonl", '{"text": "a"}\n{"text": \n', ":2: not JSON: Expecting value"),
        ("a.jsonl", "[1]\n", ":1: a line holds one JSON object, this one [1]"),
        ("a.jsonl", '{"title": "a", "txt": "b"}', "has neither text nor messages nor prompt with completion"),
        ("a.jsonl", '{"title": "a", "txt": "b"}', "its fields are title, txt (did you mean 'txt'?)"),
        ("a.jsonl", '{"text": 5}', ":1: field 'text' holds 5, not text or a list of messages"),
        ("a.jsonl", '{"messages": "hi"}', """:1: field 'messages' holds "hi", not a list of messages"""),
        ("a.jsonl", '{"messages": [{"from": "user"}]}', "a message is a mapping with role and content"),
        ("a.jsonl", '{"text": "ab\\ud800"}', r":1: field 'text' holds half a character, '\ud800' at position 3"),
        ("a.jsonl", '{"prompt": "a", "completion": 1}', ":1: field 'prompt' holds \"a\", not a list of messages"),
        ("a.csv", "text\na\nb,c\n", ":3: 2 values, but the header has 1"),
        ("a.csv", 'text\n"a', "not CSV: unexpected end of data"),
        ("a.parquet", "PAR1 nonsense", "not a whole parquet file (after row 0)"),
        ("a.txt.gz", "not gzip", "a.txt.gz': Not a gzipped file"),
        ("a.txt", " \n\n", "holds no documents: it is empty"),
        ("a.foo", "x", "has no known extension (.txt, .text, .md, .jsonl"),
    )

    @pytest.mark.parametrize(("name", "content", "message"), CASES, ids=[case[2][:30] for case in CASES])
    def test_one_line_with_the_place(self, write, name, content, message):
        path = write(name, content)
        error = error_of(Files(files=str(path)))
        assert message in error
        assert path.name in error

    def test_wrong_field_names_the_nearest(self, write):
        path = write("a.jsonl", '{"title": "a", "text": "b"}')
        assert error_of(Files(files=str(path), field="txet")) == (
            f"{path}:1: no field 'txet'; its fields are title, text (did you mean 'text'?)"
        )

    def test_truncated_parquet(self, tmp_path):
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a" * 50] * 100}), path)
        path.write_bytes(path.read_bytes()[:-20])
        assert "not a whole parquet file" in error_of(Files(files=str(path)))

    def test_truncated_gzip(self, tmp_path):
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-12])
        assert f"cannot read '{path}'" in error_of(Files(files=str(path)))

    def test_nothing_matches(self, tmp_path):
        source = Files(files=str(tmp_path / "*.txt"))
        assert list(source.missing()) == [error_of(source)]
        assert "match nothing; looked in" in error_of(source)

    def test_unreadable(self, tmp_path):
        (tmp_path / "a.txt").symlink_to("a.txt")
        assert "match nothing" in error_of(Files(files=str(tmp_path / "a.txt")))


class TestGenerator:
    CODE = (
        "class Odd: pass\n"
        "def lines(count, word='w'):\n    for n in range(count):\n        yield f'{word}{n}'\n"
        "def rows():\n    return [{'text': 'a', 'answer': 'b'}]\n"
        "def fails():\n    yield 'a'\n    raise ValueError('out of\\nluck')\n"
        "def odd():\n    yield 5\n"
        "def number():\n    return 5\n"
        "def none():\n    return []\n"
    )

    @pytest.fixture
    def module(self, write, monkeypatch, tmp_path, request):
        name = f"made_{abs(hash(request.node.nodeid))}"
        write(f"{name}.py", self.CODE)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.path", [*__import__("sys").path])
        return name

    def test_texts_and_rows(self, module):
        source = Generator(generator=f"{module}:lines", arguments={"count": 2})
        assert texts(source) == texts(source) == ["w0", "w1"]
        assert list(Generator(generator=f"{module}:rows").rows()) == [{"text": "a", "answer": "b"}]

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            ("line", {}, "has no function 'line'; did you mean 'lines'?"),
            ("lines", {}, "missing a required argument: 'count'; its arguments are count, word"),
            ("lines", {"count": 1, "wrod": 2}, "got an unexpected keyword argument 'wrod'"),
        ],
    )
    def test_what_can_be_seen_without_running(self, module, name, arguments, message):
        source = Generator(generator=f"{module}:{name}", arguments=arguments)
        assert list(source.missing()) == [error_of(source)]
        assert message in error_of(source)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("fails", "failed at document 2: ValueError: out of luck ("),
            ("odd", "document 1 is a int, not text or a mapping"),
            ("number", "returned a int; it must yield documents"),
            ("none", "holds no documents: it is empty"),
        ],
    )
    def test_what_is_seen_when_it_runs(self, module, name, message):
        assert message in error_of(Generator(generator=f"{module}:{name}"))

    def test_no_module(self, tmp_path, monkeypatch, write):
        monkeypatch.chdir(tmp_path)
        assert "no module 'nowhere_at_all', neither installed nor below" in error_of(
            Generator(generator="nowhere_at_all:f")
        )
        write("needs_other.py", "import nowhere_at_all")
        write("broken_code.py", "1 +")
        monkeypatch.setattr("sys.path", [*__import__("sys").path])
        assert "needs 'nowhere_at_all', which is not installed" in error_of(Generator(generator="needs_other:f"))
        assert "cannot be imported: SyntaxError" in error_of(Generator(generator="broken_code:f"))

    def test_fingerprint_follows_arguments_and_code(self, module, write):
        source = Generator(generator=f"{module}:lines", arguments={"count": 2})
        before = source.fingerprint()
        assert before == source.fingerprint()
        assert before != Generator(generator=f"{module}:lines", arguments={"count": 3}).fingerprint()
        write(f"{module}.py", self.CODE.replace("{word}{n}", "{n}{word}") + "# changed\n")
        assert before != source.fingerprint()


class TestFingerprint:
    def test_follows_content_not_place(self, write):
        first = Files(files=str(write("a/x.txt", "one")))
        assert first.fingerprint() == Files(files=str(write("b/y.txt", "one"))).fingerprint()
        assert first.fingerprint() != Files(files=str(write("c/x.txt", "two"))).fingerprint()
        before = first.fingerprint()
        write("a/x.txt", "one more")
        assert first.fingerprint() != before


class TestHeldOut:
    def test_each_document_is_on_one_side_and_stays_there(self, write):
        lines = [f"document {n % 900}" for n in range(1000)]
        small, large = (Files(files=str(write("a.txt", "\n".join(lines))), held_out=share) for share in (0.05, 0.2))
        outside = [[document["text"] for document in held_out_documents(source)] for source in (small, large)]
        inside = [document["text"] for document in training_documents(small)]
        assert len(inside) + len(outside[0]) == 1000
        assert not set(inside) & set(outside[0])
        assert set(outside[0]) < set(outside[1])
        assert 20 < len(outside[0]) < 90
        assert 140 < len(outside[1]) < 260

    def test_the_form_of_the_file_does_not_matter(self, write):
        words = [f"document {n}" for n in range(300)]
        plain = Files(files=str(write("a.txt", "\n".join(words))), held_out=0.1)
        rows = Files(files=str(write("a.jsonl", "\n".join(json.dumps({"text": w}) for w in words))), held_out=0.1)
        assert list(held_out_documents(plain)) == list(held_out_documents(rows))

    @pytest.mark.parametrize("share", [0, 1])
    def test_nothing_and_everything(self, write, share):
        source = Files(files=str(write("a.txt", "a\nb\nc")), held_out=share)
        assert len(list(held_out_documents(source))) == 3 * share
        assert len(list(training_documents(source))) == 3 - 3 * share

    def test_limit(self, write):
        source = Files(files=str(write("a.txt", "\n".join(["дощ"] * 50))), held_out=1)
        assert len(list(held_out_documents(source, limit_bytes=13))) == 3


class TestObjective:
    @pytest.mark.parametrize(
        ("row", "objective", "message"),
        [
            ({"text": "a"}, "causal_lm", None),
            ({"text": "a"}, "sft", "needs conversations"),
            ({"messages": [{"role": "user", "content": "a"}]}, "sft", None),
            ({"prompt": "a", "completion": "b"}, "causal_lm", "needs plain text, the documents hold prompt and"),
            ({"text": "a", "messages": [{"role": "user", "content": "a"}]}, "causal_lm", None),
        ],
    )
    def test_objective_and_documents(self, write, row, objective, message):
        found = objective_mismatch(Files(files=str(write("a.jsonl", json.dumps(row)))), objective)
        assert (found is None) if message is None else (message in found)
