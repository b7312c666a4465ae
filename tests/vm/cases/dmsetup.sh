# Scenarios for dmsetup, in its own words: run once with DMSETUP=dmsetup and once with DMSETUP="ublk-dm dmsetup".
# The output of both runs must be equal. How many events there were is not compared: ublk-dm has more. Numbers of devices are printed as <NAME>, because they are not the same.
#
#   dmsetup.sh SCENARIO DISK...
set -u
scenario=$1; shift
disk=("$@")

# The node of a device, under whatever name the kernel has it.
node() { echo "/dev/$($DMSETUP info -c --noheadings -o blkdevname "$1")"; }

# What the names of the numbers are now. All that is said here is made comparable by dmsetup.rs: an emulated CPU is slow in
# starting programs.
names() {
    echo @names
    $DMSETUP info -c --noheadings --separator ' ' -o major,minor,attr,name 2>/dev/null
}
# A command: its output, the beginning of what it complains of, and its exit code.
r() {
    echo "@command $*"
    "$@" 2>/tmp/dm-err </dev/null
    local code=$?
    printf '@complaint\n%s\n@code %s\n' "$(</tmp/dm-err)" $code
    case "$*" in *create* | *resume*) names ;; esac
}
# The same, if what it complains of is said in other words: only the exit code.
q() {
    echo "@command $*"
    "$@" >/dev/null 2>&1 </dev/null
    echo "@code $?"
}
# Like r, with stdin.
i() {
    local text=$1; shift
    echo "@command $* <<<"
    printf "$text" | "$@" >/dev/null 2>&1
    echo "@code $?"
    names
}
fill() { dd if=/dev/urandom of="$1" bs=64k count="$2" seek="${3:-0}" oflag=direct status=none; }
digest() { dd if="$1" bs=1M count=16 iflag=direct status=none | md5sum; }
D=$DMSETUP

basics() {
    for verb in ls info status table deps 'info -c' 'ls --tree'; do r $D $verb; done
    r $D create a --notable; r $D create a --notable; r $D create a --table "0 8 error"
    r $D table a; r $D status a; r $D deps a; r $D table; r $D info -c --noheadings -o name,attr,open,segments,events,uuid
    r $D load a --table "0 2048 linear ${disk[0]} 0"
    r $D info -c -o name,attr,segments a; r $D table a; r $D table --inactive a; r $D deps a; r $D deps --inactive a
    r $D resume a
    for verb in info table status deps 'info -c -o name,attr,open,segments,events,uuid' 'info -c --noheadings -o name' 'deps -o devname'; do r $D $verb a; done
    r $D table; r $D status; r $D deps
    r $D create b --table "0 1024 error"
    i "0 1024 zero\n# no line\n\n1024 1024 linear ${disk[0]} 2048 # said\n" $D create c
    i "" $D create d
    printf '0 64 zero\n' >/tmp/dm-table
    r $D create e /tmp/dm-table; r $D create f /tmp/no-such-file
    for verb in ls table status 'info -c -o name,attr,open,segments,events' 'ls --target zero' 'ls --target bogus' 'table --target zero' \
        'status --target linear' 'table a b' 'status c a' 'table --target zero c' 'status --target error a' 'ls --tree' 'ls -o devname a'; do r $D $verb; done
    r $D info a; r $D info c
    r $D suspend a; r $D info a; r $D info -c --noheadings -o name,attr,suspended a; r $D suspend a; r $D resume a; r $D resume a
    r $D load a --table "0 2048 linear ${disk[0]} 4096"; r $D info -c -o name,attr,tables_loaded a; r $D info a; r $D table --inactive
    r $D clear a; r $D clear a; r $D table --inactive a; r $D table a
    r $D load a --table "0 2048 linear ${disk[0]} 4096"; r $D resume a; r $D table a; r $D info -c -o name,attr,events a
    exec 9<"$(node a)"; r $D remove a; exec 9<&-
    r $D remove b c nope d; r $D ls; r $D remove a d e; r $D ls
}

columns() {
    r $D create base --table "0 65536 linear ${disk[0]} 0"
    r $D create nt --notable
    lower=$(node base)
    r $D create thenameofthisdeviceislong --table "0 8192 linear $lower 0"
    r $D info -c -o name,mangled_name,unmangled_name,uuid
    r $D info -c -o name,attr,tables_loaded,suspended,readonly,open,segments,events
    r $D info -c -o name,device_count,devs_used,devnos_used,device_ref_count,names_using_dev
    r $D info -c --noheadings -o name,devs_used,suspended,readonly,tables_loaded
    for words in '--separator : -o name,attr' '--separator ; -o name,open --noheadings' '--rows -o name,open' '--rows -o name,open --separator :' \
        '--nameprefixes -o name,open' '--nameprefixes --noheadings -o name,open' '--nameprefixes --unquoted --noheadings -o name,open' \
        '--rows --nameprefixes --noheadings -o name,open' '-O -name -o name' '--sort open,name -o name,open' '--sort -open,+name -o name,open' \
        '-S open>0 -o name' '-S name=nt||open=1 -o name' '-S name=nope' '--noheadings -S name!=nt -o name' '-S segments=1&&open=0 -o name'; do
        r $D info -c $words
    done
    r $D info -c -o name base; r $D -c info base -oname --nohead; r $D status -S name=base; r $D table -S name=base
    q $D info -c -o bogus; q $D info -c -O bogus; q $D info -c -S bogus=1; q $D info -c -S name; r $D info -c nope; r $D info -c -o name,attr base nope
    r $D ls --tree -o nodevice; r $D ls --tree -o ascii; r $D ls --tree -o inverted; r $D ls --tree -o active,open,rw,uuid
    r $D table --concise base
    r $D create named -u LVM-1x --table "0 64 zero"; q $D create named2 -u LVM-1x --notable; r $D create later --uuid U2 --notable
    r $D info -c -o name,uuid; r $D info -c --noheadings -o name,uuid -S uuid=LVM-1x; r $D info named; r $D info -u U2; r $D table -u LVM-1x
    r $D info -c -o name -u nope; r $D ls --tree -o nodevice,uuid
    r $D rename named renamed; r $D rename later base; r $D rename nope x; r $D rename renamed renamed; q $D rename renamed a/b; q $D rename renamed
    exec 9<"$(node renamed)"; r $D suspend renamed; r $D rename renamed again; r $D resume again; r $D table; exec 9<&-
    q $D rename -u U2 sooner; r $D rename later sooner; r $D info -c -o name,attr,uuid; r $D load -u U2 --table "0 8 error"; r $D resume -u U2
    r $D remove -u LVM-1x; r $D remove sooner
    r $D remove thenameofthisdeviceislong nt base
    r $D create --concise "x,U-x,,ro,0 1024 linear ${disk[0]} 0,1024 1024 zero;y,,,,0 64 error"
    r $D table; r $D info -c -o name,attr,uuid; r $D info x; r $D remove_all; r $D ls
}

wrong() {
    r $D bogus; r $D create; r $D create a b c; r $D load; r $D remove; r $D suspend; r $D resume; r $D wait; r $D wait a b c; r $D message a
    r $D ls foo; r $D version foo; r $D targets foo; q $D --bogus info; q $D info --bogus; q $D create --table; q $D
    for verb in info status table deps remove suspend resume wait clear 'info -c' 'load --table 0_1_error'; do r $D ${verb//_/ } nope; done
    r $D message nope 0 hi; r $D load nope --table "0 1 error"; r $D create a/b --table "0 1 error"
    r $D create x --notable --table "0 1 error"; r $D create x --table garbage; r $D create x --table "0 bogus"
    for line in "0 1024 bogus" "0 1024 linear" "0 1024 linear ${disk[0]}" "5 1024 linear ${disk[0]} 0" "0 0 error" \
        "0 1024 snapshot ${disk[0]} ${disk[0]} P 8" "0 1024 snapshot ${disk[0]} ${disk[1]} X 8" "0 1024 mirror core 1 1000 2 ${disk[0]} 0 ${disk[1]} 0"; do
        r $D create x --table "$line"
    done
    q $D create x --table "0 1024 linear /dev/nope 0"; q $D create x --table "0 10240000000 linear ${disk[0]} 0"
    q $D create "" --table "0 8 error"; r $D ls
    r $D create v --table "0 1024 error"
    r $D load v --table "0 1024 bogus"; r $D load v --table ""; r $D message v 0 hi; r $D message v 99999999 hi; r $D message v x hi
    r $D info -c -o name,attr v; r $D info v nope; r $D status nope v
    mkfs.ext4 -q "${disk[1]}"; mkdir -p /tmp/dm-mount; mount "${disk[1]}" /tmp/dm-mount
    q $D create x --table "0 1024 linear ${disk[1]} 0"
    umount /tmp/dm-mount
    q $D mknodes; q $D udevcomplete_all; q $D help; q $D --version; q $D -h
    r $D create p --table "0 1024 linear ${disk[0]} 0"
    exec 9<"$(node p)"; r $D remove -f p; r $D table p; r $D remove p; exec 9<&-
    r $D wipe_table v; r $D table v; r $D remove_all; r $D ls
}

snapshots() {
    local base cow
    r $D create base --table "0 65536 linear ${disk[0]} 0"; base=$(node base); fill "$base" 64
    r $D create cow --table "0 8192 linear ${disk[1]} 0"; cow=$(node cow); dd if=/dev/zero of="$cow" bs=4k count=1 oflag=direct status=none
    r $D create orig --notable; r $D load orig --table "0 65536 snapshot-origin $base"; r $D resume orig
    digest "$(node orig)" >/tmp/dm-before
    r $D suspend orig; r $D create snap --table "0 65536 snapshot $base $cow P 8"; r $D resume orig
    r $D status; r $D table; r $D deps; r $D info -c -o name,attr,open,segments; r $D ls --tree; r $D info snap; r $D deps -o devname
    fill "$(node orig)" 4
    r $D status snap
    digest "$(node snap)" | cmp - /tmp/dm-before && echo the snapshot shows what was
    fill "$(node orig)" 200
    r timeout 20 $D wait snap 0; r $D status snap; r $D info snap
    r $D remove snap; dd if=/dev/zero of="$cow" bs=4k count=1 oflag=direct status=none
    r $D create snap --table "0 65536 snapshot $base $cow P 8"; fill "$(node snap)" 4; r $D status snap
    digest "$(node snap)" >/tmp/dm-snap
    r $D remove snap; r $D load orig --table "0 65536 snapshot-merge $base $cow P 8"; r $D resume orig
    for _ in $(seq 100); do $D status orig | grep -q ' 16/8192 16' && break; sleep 0.1; done
    r $D status orig; r $D table orig; r $D deps orig
    r $D load orig --table "0 65536 snapshot-origin $base"; r $D resume orig; r $D status orig; r $D table orig
    digest "$(node orig)" | cmp - /tmp/dm-snap && echo the origin shows what the snapshot did
    r $D remove orig; r $D remove cow base; r $D ls
    r $D create s --table "0 65536 snapshot ${disk[0]} ${disk[2]} P 8"; r $D create o --table "0 65536 snapshot-origin ${disk[0]}"
    r $D status; r $D ls --tree; r $D remove o s
    # What a store has left is refused by ublk-dm, for a transient snapshot as well.
    dd if=/dev/zero of="${disk[2]}" bs=4k count=1 oflag=direct status=none
    r $D create t --table "0 65536 snapshot ${disk[0]} ${disk[2]} N 16"; r $D status; r $D table; r $D remove_all; r $D ls
}

mirrors() {
    r $D create m --table "0 32768 mirror core 2 1024 nosync 2 ${disk[0]} 0 ${disk[1]} 0 1 handle_errors"
    r $D status m; r $D table m; r $D deps m; r $D info m; r $D message m 0 foo; r $D ls --tree; r $D remove m
    r $D create m --table "0 32768 mirror core 1 1024 2 ${disk[0]} 0 ${disk[1]} 0"
    r timeout 60 $D wait m; r $D status m; r $D table m; r $D remove m
    r $D create log --table "0 2048 linear ${disk[2]} 0"; local log; log=$(node log)
    dd if=/dev/zero of="$log" bs=4k count=1 oflag=direct status=none
    r $D create m --table "0 32768 mirror disk 2 $log 1024 2 ${disk[0]} 0 ${disk[1]} 0 1 handle_errors"
    for _ in $(seq 100); do $D status m | grep -q 32/32 && break; sleep 0.1; done
    r $D status m; r $D table m; r $D deps m; r $D ls --tree; r $D info -c -o name,attr,open m
    fill "$(node m)" 16; digest "$(node m)" >/tmp/dm-before
    r $D load m --table "0 32768 linear ${disk[1]} 0"; r $D suspend m; r $D resume m; r $D table m
    digest "$(node m)" | cmp - /tmp/dm-before && echo the second leg has it all
    r $D remove m; r $D remove log; r $D ls
}

$scenario
