#!/bin/sh
# Builds the documentation as a site in target/site: pages where they are in the repository, so that their links hold, and the
# other files that they link to. Fails if a page is missing from SUMMARY.md, or a link leads nowhere.
set -eu
cd "$(dirname "$0")/.."
MDBOOK_VERSION=0.5.4

tests/apt.sh python3
mdbook=target/tools/bin/mdbook
if ! $mdbook --version 2>/dev/null | grep -q "v$MDBOOK_VERSION"; then
    echo "building mdbook $MDBOOK_VERSION (once, a few minutes)" >&2
    cargo install --quiet --locked --root target/tools --target-dir target/mdbook mdbook --version "$MDBOOK_VERSION" \
        --no-default-features --features search
    rm -rf target/mdbook
fi
rm -rf target/site target/book
mkdir -p target/book/pages
cp site/book.toml target/book/
cp --parents ./*.md docs/* manifests/helm/iocast/README.md target/book/pages/
cp site/SUMMARY.md target/book/pages/
$mdbook build --dest-dir "$PWD/target/site" target/book 2>target/book/log || { cat target/book/log >&2; exit 1; }
if grep -E "WARN|ERROR" target/book/log; then exit 1; fi
/usr/bin/python3 site/links.py target/site .
echo "target/site/index.html"
