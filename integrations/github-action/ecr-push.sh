#!/usr/bin/env bash
# The step of the action: finds the program ecr-push and becomes it.
#
# The program is looked for beside this script (bin/PLATFORM-ARCH/ecr-push), on PATH, and then in the release of the action's own
# repository. Written for bash 3.2, which macOS has.
set -euo pipefail

# Ends the step with an annotation.
fail() {
  local text=$1
  text=${text//'%'/%25}
  text=${text//$'\r'/%0D}
  text=${text//$'\n'/%0A}
  printf '::error title=ecr-push::%s\n' "$text"
  exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
suffix=
case $(uname -s) in
  Linux) system=linux ;;
  Darwin) system=darwin ;;
  MINGW* | MSYS* | CYGWIN*) system=win32 suffix=.exe ;;
  *) system=$(uname -s) ;;
esac
case $(uname -m) in
  x86_64 | amd64) machine=x64 ;;
  aarch64 | arm64) machine=arm64 ;;
  *) machine=$(uname -m) ;;
esac
platform=$system-$machine

# The repository and the ref of this action. The runner leaves both empty in some cases (actions/runner#2473); the folder it puts
# actions in ends in OWNER/REPOSITORY/REF/PATH and tells them too.
repository=${ECR_PUSH_ACTION_REPOSITORY-}
ref=${ECR_PUSH_ACTION_REF-}
if [[ -z $repository || -z $ref ]]; then
  folder=${here%/integrations/github-action}
  if [[ $folder == */_actions/*/*/* ]]; then
    folder=${folder##*/_actions/}
    owner=${folder%%/*}
    folder=${folder#*/}
    repository=$owner/${folder%%/*}
    ref=${folder#*/}
  fi
fi

sha256() {
  if command -v sha256sum >/dev/null; then sha256sum <"$1"; else shasum -a 256 <"$1"; fi | cut -d' ' -f1
}

fetch() {
  curl --fail --silent --show-error --location --proto-redir =https --retry 3 --connect-timeout 20 --max-time 300 \
    --output "$2" -- "$1" 2>"$2.err" || fail "cannot download $1: $(tail -n 1 "$2.err")"
}

# Downloads the program and names it in $program. Whatever was downloaded before is checked as a new download is.
download() {
  local hint="Put the program at integrations/github-action/bin/$platform/ecr-push$suffix of a copy of the action, or on PATH."
  [[ $repository =~ ^[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9._-]*[A-Za-z0-9_-]$ ]] ||
    fail "ecr-push is not here, and the repository of this action is unknown. $hint"
  command -v curl >/dev/null || fail "ecr-push is not here, and there is no curl to download it. $hint"
  local server=${GITHUB_SERVER_URL:-https://github.com}
  [[ $server == https://* || $server =~ ^http://127\.0\.0\.1:[0-9]+$ ]] ||
    fail "ecr-push is not downloaded from $server: it is no https address"
  # A branch, a commit or a tag such as v1 has no release of its own; the version in the source names it.
  local tag=$ref
  if [[ ! $tag =~ ^v[0-9]+\.[0-9]+\.[0-9]+[A-Za-z0-9.-]*$ ]]; then
    local manifest=$here/../../Cargo.toml
    [[ -f $manifest ]] || fail "ecr-push is not here, and the ref '$ref' of this action names no release. $hint"
    tag=v$(sed -n 's/^version = "\([0-9A-Za-z.-]*\)"$/\1/p' "$manifest" | head -n 1)
  fi
  local asset=ecr-push-$platform$suffix
  local folder=${RUNNER_TEMP:-${TMPDIR:-/tmp}}/ecr-push-${repository//\//-}-$tag-$platform
  mkdir -p "$folder" || fail "there is no place for the program: the folder $folder cannot be made"
  program=$folder/ecr-push$suffix
  local address=$server/$repository/releases/download/$tag
  local sums=$here/SHA256SUMS
  if [[ ! -f $sums ]]; then
    sums=$folder/SHA256SUMS
    fetch "$address/SHA256SUMS" "$sums"
  fi
  local expected
  expected=$(awk -v name="$asset" '$2 == name || $2 == "*" name { print $1 }' "$sums")
  [[ $expected =~ ^[0-9a-f]{64}$ ]] || fail "the release $tag of $repository has no checksum for $asset. $hint"
  # Another step of this job may have downloaded it.
  if [[ -x $program && $(sha256 "$program") == "$expected" ]]; then return; fi
  printf 'Downloading %s\n' "$address/$asset"
  fetch "$address/$asset" "$folder/download"
  local found
  found=$(sha256 "$folder/download")
  if [[ $found != "$expected" ]]; then
    rm -f "$folder/download"
    fail "$address/$asset has the SHA-256 $found, not $expected"
  fi
  chmod +x "$folder/download"
  mv -f "$folder/download" "$program"
}

program=$here/bin/$platform/ecr-push$suffix
if [[ -f $program ]]; then
  # A copy may have lost the right to run.
  [[ -x $program ]] || chmod +x "$program"
elif ! program=$(command -v ecr-push); then
  download
fi

unset ECR_PUSH_ACTION_REPOSITORY ECR_PUSH_ACTION_REF
exec "$program" github-action
