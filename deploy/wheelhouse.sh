#!/usr/bin/env bash
# A wheelhouse: copgen-edge and all it needs as wheels for a machine without a network, with their SHA-256.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: deploy/wheelhouse.sh [options] [REQUIREMENT ...]

  --extra NAME[,NAME]  extras to put in (default: cpu; '' for none)
  --python X.Y         Python of the machine that will install (default: the one that runs here)
  --arch ARCH          x86_64 or aarch64 (default: this machine's)
  --out DIR            folder to make (default: wheelhouse)

REQUIREMENT is anything else to put in, such as 'cuda-bindings>=12.6,<13'.
PYTHON names the interpreter whose pip is used (default: python3). pip looks for packages where it is configured to; what
has no wheel there can be built beforehand and shown to it with PIP_FIND_LINKS.
TEXT
}

die() {
    echo "Error: $1" >&2
    exit 2
}

interpreter=${PYTHON:-python3}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
extra=cpu
python=
arch=$(uname -m)
out=wheelhouse
requirements=()

while (($#)); do
    case $1 in
        --extra | --python | --arch | --out)
            (($# > 1)) || die "$1 needs a value"
            case $1 in
                --extra) extra=$2 ;;
                --python) python=$2 ;;
                --arch) arch=$2 ;;
                --out) out=$2 ;;
            esac
            shift 2
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        -*) die "unknown option $1; --help lists them" ;;
        *)
            requirements+=("$1")
            shift
            ;;
    esac
done

[[ $arch == x86_64 || $arch == aarch64 ]] || die "found --arch $arch, expected x86_64 or aarch64"
here=$("$interpreter" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
python=${python:-$here}
[[ $python =~ ^3\.[0-9]+$ ]] || die "found --python $python, expected a version such as 3.12"
out=${out%/}
[[ ! -e $out ]] || die "$out is there already; remove it or choose another --out, so that no two sets of versions mix"
if [[ $python != "$here" ]]; then
    echo "note: pip decides what depends on the Python version by its own, $here, not by $python" >&2
fi

work=$(mktemp -d "$out.partial-XXXXXX")
scratch=$(mktemp -d)
trap 'rm -rf "$work" "$scratch"' EXIT

# What setuptools leaves in a checkout would go into the wheel of a later build.
printf '[build]\nbuild_base = %s\n[egg_info]\negg_base = %s\n' "$scratch" "$scratch" >"$scratch/build.cfg"
DIST_EXTRA_CONFIG="$scratch/build.cfg" "$interpreter" -m pip wheel --quiet --no-deps --wheel-dir "$work" "$root"
own=("$work"/copgen_edge-*.whl)

# Older releases of pip take a platform literally: every name that a wheel for this glibc may carry is listed, and the one
# that a wheel built by hand carries.
platforms=()
for name in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 linux; do
    platforms+=(--platform "${name}_$arch")
done
"$interpreter" -m pip download --quiet --dest "$work" --only-binary=:all: --python-version "$python" \
    --implementation cp "${platforms[@]}" "${own[0]}${extra:+[$extra]}" ${requirements[@]+"${requirements[@]}"}

(cd "$work" && sha256sum -- *.whl >SHA256SUMS)
chmod 755 "$work"
mv "$work" "$out"
echo "$out: $(find "$out" -name '*.whl' | wc -l) wheels, $(du -sh "$out" | cut -f1), for Python $python on $arch"
