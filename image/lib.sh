# What the scripts here share: where caches lie, and how a command runs inside a tool root.
# A tool root is a Debian of its own in a folder, made by mmdebstrap: the tools are the same wherever the image is built,
# and the building machine keeps its own packages.

image_cache="${SLSKDN_IMAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/slskdn-image}"
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

die() { echo "${0##*/}: $*" >&2; exit 1; }

need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null || die "$1 is missing: apt-get install $2"
}

as_root() {
    [ "$(id -u)" = 0 ] || die "run it as root: tool roots are entered with chroot, and files of the image belong to root"
}

# One stamped tool root: made again when what it should hold has changed.
tool_root() { # NAME SUITE ARCHITECTURES COMPONENTS PACKAGES
    local root="$image_cache/$1" stamp="$2 $3 $4 $5"
    mkdir -p "$image_cache"
    (
        flock 9
        [ "$(cat "$root/.made" 2>/dev/null)" = "$stamp" ] && exit
        need mmdebstrap mmdebstrap
        rm -rf "$root"
        echo "making the tool root $1 (once)" >&2
        mmdebstrap --quiet --variant=apt --architectures="$3" --components="$4" --include="$5" "$2" "$root" \
            >"$image_cache/$1.log" 2>&1 </dev/null || { tail -n 20 "$image_cache/$1.log" >&2; exit 1; }
        echo "$stamp" >"$root/.made"
    ) 9>"$image_cache/$1.lock" || die "the tool root $1 could not be made"
}

tools_packages=mmdebstrap,genimage,systemd,mtools,dosfstools,squashfs-tools,e2fsprogs,fdisk,zstd,xz-utils,cpio,kmod,ca-certificates
tools_packages+=,signify-openbsd,u-boot-tools,device-tree-compiler,dpkg-dev,apt-utils,systemd-ukify,systemd-boot-efi,python3-minimal
tools() { tool_root tools trixie amd64 main,non-free-firmware "$tools_packages"; }

# The tool root that compiles where no toolchain for 64-bit Arm is installed. Bookworm, so that the program runs there too.
cross() {
    tool_root cross bookworm amd64,arm64 main \
        ca-certificates,rustc-web,cargo-web,libstd-rust-web-dev:arm64,gcc-aarch64-linux-gnu,libc6-dev-arm64-cross,gcc,libc6-dev
}

# The crates that are linked into the program, `NAME vVERSION` a line: none of tests, macros or other systems. Told by this
# machine's cargo, or by that of the tool root where it has none or one too old for this project.
crates() (
    local home="${CARGO_HOME:-$HOME/.cargo}" found
    local ask=(cargo tree --locked --target aarch64-unknown-linux-gnu --edges "normal,no-proc-macro" --prefix none --format '{p}')
    cd "$project"
    found="$("${ask[@]}" 2>/dev/null)" || {
        cross
        mkdir -p "$home"
        found="$(within cross "$project" "$home" -- env -u RUSTUP_HOME CARGO_HOME="$home" HOME="$home" "${ask[@]}")" ||
            die "cargo could not tell which crates the program has"
    }
    cut -d' ' -f1,2 <<<"$found" | LC_ALL=C sort -u
)

# The tool root's lists of what Debian offers for the boards, backports included.
lists() {
    tools
    within tools -- sh -eu -c '
        dpkg --add-architecture arm64
        sed -n "s/^\(deb [^ ]*\) trixie main.*/\1 trixie-backports main non-free-firmware/p" /etc/apt/sources.list \
            >/etc/apt/sources.list.d/backports.list
        apt-get -qq update' >"$image_cache/lists.log" 2>&1 || { tail "$image_cache/lists.log" >&2; die "the package lists could not be fetched"; }
}

# Fetches what the lock names into the cache, each file with its hash: from Debian's mirrors, or, since every point release takes
# away there what it replaces, from Debian's archive of what was there when the lock was written.
debian_mirror="${SLSKDN_DEBIAN_MIRROR:-http://deb.debian.org}"
debian_archive="${SLSKDN_DEBIAN_ARCHIVE:-https://snapshot.debian.org/archive}"
fetch_locked() { # SET…
    local lock="$project/image/packages.lock" missing=() left=() get=() fetch from day url at package set name version arch sha path
    mkdir -p "$image_cache/debs"
    # One that has changed in the cache is fetched again.
    (cd "$image_cache/debs" && awk -v sets=" $* " '!/^#/ && index(sets, " " $1 " ") { print $5 "  " $5 ".deb" }' "$lock" |
        sha256sum --check --quiet --ignore-missing 2>/dev/null | sed -n 's/: FAILED.*//p' | xargs -r rm -f --) || true
    while read -r set name version arch sha path; do
        [[ " $* " != *" $set "* ]] || [ -e "$image_cache/debs/$sha.deb" ] || missing+=("$sha $path")
    done < <(grep -v '^#' "$lock")
    [ "${#missing[@]}" = 0 ] && return
    tools
    day="$(sed -n 's/^# archived: //p' "$lock")"
    find "$image_cache" -maxdepth 1 -name 'fetch.??????' -mmin +600 -exec rm -rf {} +
    fetch="$(mktemp -d "$image_cache/fetch.XXXXXX")"
    # apt fetches as a user of its own.
    chmod 777 "$fetch"
    for from in mirror archive; do
        left=()
        # Some at a time: those are kept when it is stopped.
        for ((at = 0; at < ${#missing[@]}; at += 16)); do
            get=()
            for package in "${missing[@]:at:16}"; do
                read -r sha path <<<"$package"
                case "$from" in
                    mirror) url="$debian_mirror/$path" ;;
                    archive) url="$debian_archive/${path%%/*}/$day/${path#*/}" ;;
                esac
                get+=("$url" "$fetch/$sha.deb" "SHA256:$sha")
            done
            within tools "$image_cache" -- /usr/lib/apt/apt-helper -q -o Acquire::Retries=3 download-file "${get[@]}" \
                >"$image_cache/fetch.log" 2>&1 || true
            for package in "${missing[@]:at:16}"; do
                sha="${package%% *}"
                if [ -e "$fetch/$sha.deb" ] && [ "$(sha256sum "$fetch/$sha.deb" | cut -c1-64)" = "$sha" ]; then
                    mv "$fetch/$sha.deb" "$image_cache/debs/"
                else
                    left+=("$package")
                fi
            done
        done
        missing=("${left[@]}")
        [ "${#missing[@]}" -gt 0 ] || break
    done
    rm -rf "$fetch"
    [ "${#missing[@]}" = 0 ] || {
        tail -n 5 "$image_cache/fetch.log" >&2
        die "${#missing[@]} Debian packages could be fetched neither from ${debian_mirror#*//} nor from ${debian_archive#*//}, such as ${missing[0]#* }: look whether the internet works"
    }
}

# The cached file of a locked package.
locked() { # SET NAME
    local sha
    sha="$(awk -v set="$1" -v name="$2" '$1 == set && $2 == name { print $5 }' "$project/image/packages.lock")"
    [ -n "$sha" ] || die "image/packages.lock has no $2 in $1"
    echo "$image_cache/debs/$sha.deb"
}

# Runs a command in a tool root. Each KEEP is a folder of this machine that has the same path inside.
within() { # ROOT KEEP… -- COMMAND…
    local root="$image_cache/$1" keep=()
    shift
    while [ "$1" != -- ]; do keep+=("$1"); shift; done
    shift
    root="$root" here="$PWD" unshare --mount --propagation private bash -c '
        set -e
        mount --rbind /dev "$root/dev"
        mount -t proc proc "$root/proc"
        mount --rbind /sys "$root/sys"
        count=$1; shift
        for ((; count > 0; count--)); do
            mkdir -p "$root$1"
            mount --bind "$1" "$root$1"
            shift
        done
        cat /etc/resolv.conf >"$root/etc/resolv.conf"
        exec chroot "$root" /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
            sh -c "cd \"\$1\" 2>/dev/null || cd /; shift; exec \"\$@\"" sh "$here" "$@"' bash "${#keep[@]}" "${keep[@]}" "$@"
}
