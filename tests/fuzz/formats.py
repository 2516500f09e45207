"""Good samples of binary formats, made in code, and damage below their checksums and lengths, where readers go in."""

from __future__ import annotations

import base64
import datetime
import gzip
import io
import re
import struct
import zipfile
from collections.abc import Sequence
from random import Random

from tests.fuzz.mutations import mutated

# ---- TensorBoard: length, its checksum, a protobuf message, its checksum -----------------------------------------


def event_payloads() -> list[bytes]:
    """Single events, as PyTorch's and TensorFlow 2's writers make them."""
    from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2

    value = summary_pb2.Summary.Value
    tensor = tensor_pb2.TensorProto(dtype=1, float_val=[0.5])
    summaries = (
        [value(tag="actor/pg_loss", simple_value=-0.01), value(tag="reward", simple_value=float("nan"))],
        [value(tag="loss", tensor=tensor)],
        [value(tag="text", tensor=tensor_pb2.TensorProto(dtype=7, string_val=[b"words"]))],
    )
    events = [event_pb2.Event(wall_time=1.7e9, file_version="brain.Event:2")]
    for step, values in enumerate(summaries, 1):
        events.append(event_pb2.Event(wall_time=1.7e9 + step, step=step, summary=summary_pb2.Summary(value=values)))
    events.append(event_pb2.Event(step=2**62, summary=summary_pb2.Summary(value=summaries[0])))
    return [event.SerializeToString() for event in events]


def record_file(payloads: Sequence[bytes], lengths: Sequence[int] = ()) -> bytes:
    """Payloads with checksums that are right, and lengths that need not be."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    parts = []
    for position, payload in enumerate(payloads):
        length = struct.pack("<Q", lengths[position] if position < len(lengths) else len(payload))
        parts += [length, struct.pack("<I", masked_crc32c(length)), payload, struct.pack("<I", masked_crc32c(payload))]
    return b"".join(parts)


def damaged_events(random: Random, _) -> bytes:
    """Damaged messages, or a wrong length, under checksums that are right."""
    payloads = event_payloads()
    if random.random() < 0.2:
        lengths = [len(payload) for payload in payloads]
        lengths[random.randrange(len(lengths))] = random.choice((0, 1, 2**31, 2**33, 2**40, 2**63, 2**64 - 1))
        return record_file(payloads, lengths)
    chosen = random.randrange(len(payloads))
    payloads[chosen] = mutated(random, [payloads[chosen]], [b"\x0a\xff\xff\xff\xff\x07", b"\xff" * 10, b"\x0b" * 2_000])
    return record_file(payloads)


# ---- parquet: pages, then a footer in Thrift with its length behind it -------------------------------------------


def parquet_samples() -> list[bytes]:
    """Small tables of all that training data holds, and of odder kinds."""
    import pyarrow as pa

    day = datetime.date(2026, 1, 1)
    messages = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "你好"}]] * 8
    plain = {
        "prompt": [f"q{n % 3}" for n in range(8)],
        "messages": messages,
        "score": [0.5, None, float("nan"), 1.0] * 2,
    }
    odd = {
        "day": [day] * 4, "at": [datetime.datetime(2026, 1, 1, 12)] * 4, "long": [2**62] * 4,
        "bytes": [b"\xff\x00"] * 4,
        "map": pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64())), "word": pa.array(["a",
        "b"] * 2).dictionary_encode(),
        "money": pa.array([1, 2, 3, 4], pa.decimal128(20, 2)), "ns": pa.array([2**62] * 4, pa.timestamp("ns", "UTC")),
    }  # fmt: skip
    return [
        _parquet_file(pa.table(plain), compression="snappy"),
        _parquet_file(pa.table(plain), compression="gzip", row_group_size=3, use_dictionary=False),
        _parquet_file(pa.table(odd), compression="zstd", data_page_version="2.0"),
        _parquet_file(pa.table(odd), compression="none"),
    ]


def _parquet_file(table, **options) -> bytes:
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def damaged_parquet(random: Random, samples: Sequence[bytes]) -> bytes:
    """Damage of the footer alone, of the pages alone, or of the Arrow schema in it; else a file that grows."""
    sample = random.choice(samples)
    if random.random() < 0.1:
        return _growing_parquet(random)
    size = struct.unpack("<I", sample[-8:-4])[0]
    pages, footer = sample[: -8 - size], sample[-8 - size : -8]
    what = random.random()
    if what < 0.3 and (found := re.search(rb"[A-Za-z0-9+/]{100,}=*", footer)):
        schema = base64.b64decode(found[0] + b"=" * (-len(found[0]) % 4))
        changed = base64.b64encode(mutated(random, [schema]))[: len(found[0])].ljust(len(found[0]), b"A")
        footer = footer[: found.start()] + changed + footer[found.end() :]
    elif what < 0.6:
        footer = mutated(
            random, [footer], [b"\xff\xff\xff\xff\x0f", b"\x00", b"\x1c", b"\x19\x1c", b"\x80" * 9 + b"\x01"]
        )
    else:
        pages = mutated(random, [pages], [b"PAR1", b"\xff" * 4])
    size = len(footer) if random.random() < 0.9 else random.choice((0, 1, 2**31 - 1, 2**32 - 1))
    return pages + footer + struct.pack("<I", size) + b"PAR1"


def _growing_parquet(random: Random) -> bytes:
    """One text for all rows: some hundred bytes that unpack to up to 2 GiB."""
    import pyarrow as pa

    size = 10 ** random.randrange(1, 7)
    rows = min(100_000, 10 ** random.randrange(1, 7), 2 * 10**9 // size)
    words = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["a" * size]))
    return _parquet_file(pa.table({"prompt": words}), compression="zstd")


# ---- xlsx: XML in a zip ------------------------------------------------------------------------------------------

_OPEN = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
_MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_RELATIONS = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_PARTS = {
    "[Content_Types].xml": f"""{_OPEN}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>
<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPE}.worksheet+xml"/>
<Override PartName="/xl/sharedStrings.xml" ContentType="{_TYPE}.sharedStrings+xml"/>
<Override PartName="/xl/styles.xml" ContentType="{_TYPE}.styles+xml"/></Types>""",
    "_rels/.rels": f"""{_OPEN}<Relationships {_RELATIONS}>
<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>""",
    "xl/workbook.xml": f"""{_OPEN}<workbook {_MAIN} xmlns:r="{_OFFICE}">
<sheets><sheet name="Data" sheetId="1" r:id="rId1"/></sheets></workbook>""",
    "xl/_rels/workbook.xml.rels": f"""{_OPEN}<Relationships {_RELATIONS}>
<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>
<Relationship Id="rId2" Type="{_OFFICE}/sharedStrings" Target="sharedStrings.xml"/>
<Relationship Id="rId3" Type="{_OFFICE}/styles" Target="styles.xml"/></Relationships>""",
    "xl/worksheets/sheet1.xml": f"""{_OPEN}<worksheet {_MAIN}><dimension ref="A1:D4"/><sheetData>
<row r="1"><c r="A1" t="s"><v>0</v></c>
<c r="B1" t="s"><v>1</v></c><c r="C1" t="inlineStr"><is><t>day</t></is></c></row>
<row r="2"><c r="A2" t="s"><v>2</v></c><c r="B2"><v>1.5</v></c><c r="C2" s="1"><v>45000</v></c>
<c r="D2" t="b"><v>1</v></c></row>
<row r="3"><c r="A3"><f>1+1</f><v>2</v></c><c r="B3" t="e"><v>#N/A</v></c>
<c r="C3" t="d"><v>2026-01-01T00:00:00</v></c></row>
<row r="4"><c r="B4" t="str"><v>_x000D_</v></c></row></sheetData>
<mergeCells count="1"><mergeCell ref="A2:A3"/></mergeCells></worksheet>""",
    "xl/sharedStrings.xml": f"""{_OPEN}<sst {_MAIN} count="3" uniqueCount="3">
<si><t>prompt</t></si><si><t>answer</t></si><si><r><t>two </t></r><r><t>runs</t></r></si></sst>""",
    "xl/styles.xml": f"""{_OPEN}<styleSheet {_MAIN}>
<numFmts count="1"><numFmt numFmtId="164" formatCode="yyyy-mm-dd"/></numFmts>
<fonts count="1"><font/></fonts>
<fills count="1"><fill><patternFill/></fill></fills><borders count="1"><border/></borders>
<cellStyleXfs count="1"><xf/></cellStyleXfs>
<cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="164"/></cellXfs></styleSheet>""",
}  # fmt: skip
XML_TOKENS = (
    b"<row>", b'<row r="1048576">', b'<row r="1000000000">', b'<c r="XFD1">', b'<c r="ZZZZ9">', b'<c r="A0">',
    b'<c t="s">',
    b"<v>99999</v>", b"<v>-1</v>", b'<v xml:space="preserve">', b"<f>A1</f>", b't="d"', b't="e"', b' s="99"',
    b"&#0;", b"&x;",
    b'<mergeCell ref="A1:XFD1048576"/>', b'<mergeCell ref="ABCDE1:ABCDE9"/>', b"]]>", b"<!--", b"<![CDATA[",
    b"</worksheet>",
    b'<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>', b'<c r="A2"><v>1e400</v></c>',
    b"<is><t/></is>",
)  # fmt: skip


def xlsx_file(parts: dict[str, bytes], claimed: int | None = None) -> bytes:
    """A zip of the parts; the first one may claim another unpacked size than it has."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in parts.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)  # ZipInfo alone: of the year 1980
        if claimed is not None:
            archive.filelist[0].file_size = claimed
    return stream.getvalue()


def xlsx_samples() -> list[bytes]:
    """A sheet with texts, numbers, dates, a formula, an error and merged cells; one without most parts."""
    whole = {name: text.encode() for name, text in _PARTS.items()}
    few = {name: text for name, text in whole.items() if "styles" not in name}
    return [xlsx_file(whole), xlsx_file(few)]


def damaged_xlsx(random: Random, _) -> bytes:
    """Damage of a part before it is packed; or a part is missing, or shares its bytes with another, or is untrue."""
    parts = {name: text.encode() for name, text in _PARTS.items()}
    name = random.choice([*parts, *["xl/worksheets/sheet1.xml"] * 6])
    what = random.random()
    if what < 0.08:
        del parts[name]
    elif what < 0.16:
        parts[name] = parts[random.choice(list(parts))]
    elif what < 0.2:
        return xlsx_file(parts, claimed=random.choice((0, 2**31, 2**32 - 1)))
    elif what < 0.3:  # any attribute may hold any number
        numbers = list(re.finditer(rb'(?<=")\d+(?=")|(?<=[A-D])\d(?=["<:])|(?<=<v>)[\d.]+', parts[name]))
        if numbers:
            chosen = random.choice(numbers)
            new = random.choice((b"0", b"-1", b"1048577", b"99999999", b"9" * 20, b"9" * 5000, b"1e400", b"nan", b"a"))
            parts[name] = parts[name][: chosen.start()] + new + parts[name][chosen.end() :]
    else:
        parts[name] = mutated(random, [parts[name]], XML_TOKENS)
    return xlsx_file(parts)


# ---- gzip --------------------------------------------------------------------------------------------------------


def packed(data: bytes) -> bytes:
    """Bytes in gzip, without the time of day."""
    return gzip.compress(data, mtime=0)


def damaged_gzip(random: Random, samples: Sequence[bytes]) -> bytes:
    """Damaged text in a good gzip, members behind one another, or much of nothing."""
    inner = mutated(random, [gzip.decompress(sample) for sample in samples])
    what = random.random()
    if what < 0.2:
        return packed(inner) + random.choice((packed(inner), b"\x00" * 100, b"rest", packed(b"")[:-3]))
    if what < 0.3:
        return packed(random.choice((b" ", b"[", b"\n", b'{"a":', b"\x00", b"1")) * 10 ** random.randrange(4, 7))
    return packed(inner)
