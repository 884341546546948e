"""Third-party notices: which packages and libraries the programs of all platforms hold, and the texts of their licences.

The texts come from the sources that Cargo builds, from the toolchain, and, for what neither brings, from dist/licences. The result is the
same on every machine: it depends on Cargo.lock, rust-toolchain.toml and this folder alone.
"""

import html
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Packages whose authors publish them without the text of their licence, and where that is kept here instead: a file of dist/licences, or
# the LICENSE of this repository, which is Apache's text and nothing else.
WITHOUT_TEXT = {
    "base64-simd": "licences/Nugine-simd-MIT.txt",
    "bollard-stubs": "../LICENSE",
    "vsimd": "licences/Nugine-simd-MIT.txt",
}

# Texts in packages that do not count for what is linked: of two licences to choose from the one that is not chosen, and of files that are
# not built.
NOT_LINKED = {
    "zstd-sys": ["zstd/COPYING"],
    "bollard": ["resources/dockerfiles/windows/registry/LICENSE"],
}

# C libraries inside packages: name, licence, home, the file that has the version, and what finds it there. Every package with C or
# assembler sources has to be here.
C_LIBRARIES = {
    "aws-lc-sys": ("aws-lc", None, "github/aws/aws-lc", "aws-lc/include/openssl/base.h", r'AWSLC_VERSION_NUMBER_STRING "([0-9.]+)"'),
    "zstd-sys": ("libzstd", "BSD-3-Clause", "github/facebook/zstd", "Cargo.toml", r'version = "[^"]*zstd\.([0-9.]+)"'),
}

# What the toolchains of C and Rust add, on the systems where they are linked statically: name, licence, home, files of dist/licences.
GLIBC = ("glibc", "LGPL-2.1-or-later", "generic/glibc", ["licences/glibc.txt", "licences/LGPL-2.1.txt"])
LIBGCC = ("libgcc", "GPL-3.0-or-later WITH GCC-exception-3.1", "generic/libgcc", ["licences/GCC-exception-3.1.txt"])

# A sentence that no other licence has.
MARKS = {
    "Apache-2.0": "apache license version 2.0",
    "BSD-2-Clause": "redistribution and use in source and binary forms",
    "BSD-3-Clause": "endorse or promote products derived from this software",
    "BSL-1.0": "boost software license",
    "CC0-1.0": "cc0 1.0 universal",
    "CDLA-Permissive-2.0": "community data license agreement",
    # Its exception is what counts for a program that is linked with GCC's library.
    "GPL-3.0-or-later": "gcc runtime library exception",
    "ISC": "permission to use, copy, modify, and",
    "LGPL-2.1-or-later": "gnu lesser general public license",
    "MIT": "the above copyright notice and this permission notice shall be included in all copies or substantial portions",
    "MIT-0": "mit no attribution",
    "Unicode-3.0": "unicode license v3",
    "Unlicense": "this is free and unencumbered software",
    "Zlib": "altered source versions must be plainly marked",
}


class Missing(Exception):
    """A sentence about what has no text."""


def plain(text):
    """The words of a text, without what differs between copies of it."""
    return re.sub(r"[\s#*/=-]+", " ", text).strip().lower()


def licences_in(text):
    """The SPDX identifiers whose words a text holds."""
    words = plain(text)
    return {name for name, mark in MARKS.items() if plain(mark) in words}


def same(text):
    """What two copies of one text have in common. Apache's ends with an advice for authors, which nobody is bound to."""
    words = plain(text)
    terms, end, advice = words.partition("end of terms and conditions")
    if "apache license" in words[:40] and not re.search(r"copyright (\(c\) |©)?[0-9]{4}", advice):
        return terms + end
    return words


def read(file):
    return file.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip("\n")


def texts_of(name, folder):
    """The licence texts of a package by the path in it, its folder's and those of what it brings along."""
    pattern = re.compile(r"(un)?licen[cs]e|copying|copyright|notice", re.IGNORECASE)
    omitted = NOT_LINKED.get(name, [])
    found = {}
    # By their text: Windows has another order for paths.
    for path in sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*")):
        file = folder / path
        code = file.suffix in {".rs", ".c", ".h", ".S", ".py", ".go"}
        if pattern.match(file.name) and file.is_file() and not code and path not in omitted:
            found[path] = read(file)
    absent = [path for path in omitted if not (folder / path).is_file()]
    if absent:
        raise Missing(f"{name} no longer has {', '.join(absent)}: take it out of NOT_LINKED in dist/notices.py")
    return found


def has_c(folder):
    return any(file.suffix in {".c", ".S", ".s", ".asm", ".cc", ".cpp", ".a", ".lib"} for file in folder.rglob("*"))


def of_package(package, met):
    """The notice of a package from the registry. `met` says whether an SPDX expression is met by a set of licences."""
    name, folder = package["name"], Path(package["manifest_path"]).parent
    expression = package["license"].replace(" / ", " OR ").replace("/", " OR ")
    texts = texts_of(name, folder)
    if name in WITHOUT_TEXT:
        if texts:
            raise Missing(f"{name} now brings {', '.join(texts)}: take it out of WITHOUT_TEXT in dist/notices.py")
        texts = {WITHOUT_TEXT[name]: read(HERE / WITHOUT_TEXT[name])}
    known = set().union(*map(licences_in, texts.values())) if texts else set()
    if not met(expression, known):
        found = f"its texts are of {', '.join(sorted(known))}" if known else "it has none"
        raise Missing(f"{name} {package['version']}: no text of the licence `{expression}`, {found}")
    if has_c(folder) != (name in C_LIBRARIES):
        raise Missing(f"{name} {package['version']}: C_LIBRARIES in dist/notices.py does not say which C libraries it holds, or wrongly")
    url = f"https://crates.io/crates/{name}/{package['version']}"
    return {"name": name, "version": package["version"], "licence": expression, "url": url, "texts": list(texts.values())}


def stale(names):
    """Entries of the tables above that are of no use any more."""
    listed = set(WITHOUT_TEXT) | set(NOT_LINKED) | set(C_LIBRARIES)
    return [f"{name} is not in any program: take it out of dist/notices.py" for name in sorted(listed - set(names))]


def c_library(package):
    """The C library inside a package, if there is one: as a part of the bill of materials, with its texts."""
    if package["name"] not in C_LIBRARIES:
        return None
    name, licence, home, file, pattern = C_LIBRARIES[package["name"]]
    folder = Path(package["manifest_path"]).parent
    version = re.search(pattern, read(folder / file))
    if not version:
        raise Missing(f"{package['name']} {package['version']}: {file} does not say which {name} this is")
    texts = list(texts_of(package["name"], folder).values())
    number, url = version[1], "https://" + home.replace("github", "github.com", 1)
    part = {"name": name, "version": number, "licence": licence or package["license"], "url": url, "texts": texts}
    return part | {"purl": f"pkg:{home}@v{number}"}


def rust():
    """The standard library, with all that it is made of."""
    root = run(["rustc", "--print", "sysroot"]).strip()
    version = run(["rustc", "--version"]).split()[1]
    file = Path(root) / "share/doc/rust/COPYRIGHT-library.html"
    if not file.is_file():
        raise Missing(f"the toolchain in {root} has no share/doc/rust/COPYRIGHT-library.html, which holds the notices of Rust's standard library")
    page = read(file)
    texts = [html.unescape(text).strip("\n") for text in re.findall(r"<pre>\n?(.*?)</pre>", page, re.DOTALL)]
    # The page itself, without the texts and marks: who holds which copyright.
    lines = re.sub(r"<pre>.*?</pre>|<head>.*?</head>", "", page, flags=re.DOTALL)
    lines = [html.unescape(re.sub(r"<[^>]*>", "", line)).strip() for line in lines.splitlines()]
    texts.insert(0, re.sub(r"\n{2,}", "\n", "\n".join(lines)).strip())
    url = "https://www.rust-lang.org"
    part = {"name": "rust-std", "version": version, "licence": "MIT OR Apache-2.0", "url": url, "texts": texts}
    return part | {"purl": f"pkg:github/rust-lang/rust@{version}"}


def run(command):
    return subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, check=True, text=True).stdout


def of_toolchain(target):
    """What the compilers add to a program for this target. The versions of C's libraries are those of the machine that builds."""
    parts = [rust()]
    if target.endswith("-linux-gnu"):
        for name, licence, home, files in (GLIBC, LIBGCC):
            texts = [read(HERE / file) for file in files]
            url = "https://sourceware.org/glibc/" if name == "glibc" else "https://gcc.gnu.org"
            parts.append({"name": name, "licence": licence, "url": url, "texts": texts, "purl": f"pkg:{home}"})
    return parts


INTRODUCTION = """\
Third-party notices of ecr-push

ecr-push itself is under the Apache License 2.0, see LICENSE. Its programs contain what is listed here. Behind each name: the version, the
licence as its authors state it, the systems whose program holds it where it is not all of them, and the numbers of the texts below.

On Linux the program is linked statically with the GNU C Library (glibc), which is under the GNU Lesser General Public License. You may
change that library and link the program with it again: the source of ecr-push at the release's tag, with dist/build in it, is all that
this takes. The source of glibc is at https://sourceware.org/glibc/ and with the distribution that the release was built on.
"""


def document(parts, systems):
    """The notices as one text. `parts` maps (name, version) to a part; `systems` to those that hold it, or nothing for all."""
    numbers, texts, lines = {}, [], []
    for key in sorted(parts):
        part = parts[key]
        mine = []
        for text in part["texts"]:
            known = same(text)
            if known not in numbers:
                numbers[known] = len(texts) + 1
                texts.append(text)
            if numbers[known] not in mine:
                mine.append(numbers[known])
        named = " ".join(filter(None, [part["name"], part.get("version")]))
        only = f" | only {', '.join(systems[key])}" if systems[key] else ""
        lines.append(f"{named} | {part['licence']}{only} | {' '.join(map(str, mine))}\n    {part['url']}")
    rule = "-" * 100
    body = [f"{rule}\n[{number}]\n\n{text}\n" for number, text in enumerate(texts, 1)]
    return "\n".join([INTRODUCTION, "Packages and libraries\n", *lines, "\nTexts\n", *body])
