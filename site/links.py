"""links.py SITE REPOSITORY: mends links of the site that mdBook leaves to README.html, or to files of the repository that are no
pages, and fails where a link leads nowhere, or a page is missing from the site."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

HOME = "https://github.com/iocast/iocast/blob/main/"
site, repository = (Path(argument).resolve() for argument in sys.argv[1:])


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        self.links += [found[key] for key in ("href", "src") if found.get(key)]


def mended(path, link):
    """What a link has to be; nothing if it is right, or leads nowhere at all."""
    file, hash, heading = link.partition("#")
    target = (path.parent / unquote(file)).resolve()
    if target.exists() or not target.is_relative_to(site):
        return None
    if target.name == "README.html" and target.with_name("index.html").exists():
        return file.removesuffix("README.html") + "index.html" + hash + heading
    relative = target.relative_to(site)
    return HOME + str(relative) if (repository / relative).exists() else None


def faults():
    texts = {path: path.read_text() for path in site.rglob("*.html") if path.name not in ("print.html", "404.html", "toc.html")}
    for path, text in texts.items():
        for link in {link for link in Page(text).links if not urlsplit(link).scheme}:
            if right := mended(path, link):
                texts[path] = texts[path].replace(f'"{link}"', f'"{right}"')
        if texts[path] != text:
            path.write_text(texts[path])
    pages = {path: Page(text) for path, text in texts.items()}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                yield f"{path.relative_to(site)}: there is no {link}"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                yield f"{path.relative_to(site)}: {link} has no such heading"
    for source in [*repository.glob("*.md"), *repository.glob("docs/*.md")]:
        built = site / source.relative_to(repository).with_suffix(".html")
        if not built.exists() and not (source.name == "README.md" and (built.with_name("index.html")).exists()):
            yield f"{source.relative_to(repository)} is not in site/SUMMARY.md"


found = sorted(faults())
print("\n".join(found))
sys.exit(bool(found))
