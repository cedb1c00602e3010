# Chooses a slot and starts it; docs/image.md says what slots.txt means. The @WORDS@ come from the board's meta file.
setenv kernel_at @KERNEL_AT@
setenv kernel_comp_addr_r @UNPACK_AT@
setenv kernel_comp_size 0x2000000
setenv initrd_at @INITRD_AT@
setenv tree_at @TREE_AT@
setenv work_at @WORK_AT@
setexpr sum_at ${work_at} + 0x1000
setexpr text_at ${work_at} + 0x2000
setenv part ${devtype} ${devnum}:${distro_bootpart}

# Boards' U-Boots differ in the order of the bytes in which crc32 leaves a sum: here that of one zero byte, d202ef8d.
mw.b ${work_at} 0 1
crc32 ${work_at} 1 ${sum_at}
setexpr.b digit *${sum_at}
setenv order "0 1 2 3"
if test ${digit} = 8d; then setenv order "3 2 1 0"; fi

# The checksum of `length` bytes at `from`: sets `check`, a number without leading zeros.
setenv crc 'crc32 ${from} ${length} ${sum_at}; setenv check 0; for at in ${order}; do setexpr place ${sum_at} + ${at}; setexpr.b digit *${place}; setexpr check ${check} * 100; setexpr check ${check} + ${digit}; done'
# That of the three lines of slots.txt as they stand now.
setenv sum 'env export -t ${text_at} BOOT_A_LEFT BOOT_B_LEFT BOOT_ORDER; setexpr length ${filesize} - 1; setenv from ${text_at}; run crc'

setenv known 0
for copy in slots.txt slots2.txt; do
    if test ${known} = 0; then
        env delete -f BOOT_A_LEFT BOOT_B_LEFT BOOT_ORDER BOOT_CHECK
        if load ${part} ${work_at} ${copy} 200; then
            env import -t ${work_at} ${filesize} BOOT_A_LEFT BOOT_B_LEFT BOOT_ORDER BOOT_CHECK
            run sum
            if test -n "${BOOT_CHECK}" && itest.q ${check} -eq ${BOOT_CHECK}; then
                if test "${BOOT_ORDER}" = "A B" || test "${BOOT_ORDER}" = "B A"; then
                    setenv known 1
                fi
            fi
        fi
    fi
done
if test ${known} = 0; then
    echo "slskdn-boot: slots.txt is missing or damaged: order A B"
    setenv BOOT_ORDER "A B"
    setenv BOOT_A_LEFT 3
    setenv BOOT_B_LEFT 3
fi
if test ${BOOT_A_LEFT} -eq 0 && test ${BOOT_B_LEFT} -eq 0; then
    echo "slskdn-boot: no slot has tries left: both get 3 again"
    setenv BOOT_A_LEFT 3
    setenv BOOT_B_LEFT 3
    mw.b ${work_at} 20 200
    env export -t ${work_at} BOOT_A_LEFT
    fatwrite ${part} ${work_at} none-left.txt ${filesize}
fi
setenv slot
for try in ${BOOT_ORDER}; do
    if test -z "${slot}"; then
        if test ${try} = A && test ${BOOT_A_LEFT} -gt 0; then
            setexpr BOOT_A_LEFT ${BOOT_A_LEFT} - 1
            setenv slot A
        fi
        if test ${try} = B && test ${BOOT_B_LEFT} -gt 0; then
            setexpr BOOT_B_LEFT ${BOOT_B_LEFT} - 1
            setenv slot B
        fi
    fi
done

# Both copies, one after the other: 512 bytes, blanks at the end.
run sum
setenv zeros
for limit in 10 100 1000 10000 100000 1000000 10000000; do
    if itest.q ${check} -lt 0x${limit}; then
        setenv zeros ${zeros}0
    fi
done
setenv BOOT_CHECK 0x${zeros}${check}
mw.b ${work_at} 20 200
env export -t ${work_at} BOOT_A_LEFT BOOT_B_LEFT BOOT_ORDER
setexpr end ${work_at} + ${filesize}
setexpr end ${end} - 1
env export -t ${end} BOOT_CHECK
setexpr end ${end} + ${filesize}
setexpr end ${end} - 1
mw.b ${end} 20
setexpr end ${work_at} + 1ff
mw.b ${end} a
fatwrite ${part} ${work_at} slots2.txt 200
setenv counted 0
fatwrite ${part} ${work_at} slots.txt 200 && setenv counted 1
# A last try that cannot be counted would be made again and again: rather the other slot.
if test ${counted} = 0; then
    echo "slskdn-boot: slots.txt cannot be written"
    setenv last ${slot}
    if test ${last} = A && test ${BOOT_A_LEFT} -eq 0 && test ${BOOT_B_LEFT} -gt 0; then setenv slot B; fi
    if test ${last} = B && test ${BOOT_B_LEFT} -eq 0 && test ${BOOT_A_LEFT} -gt 0; then setenv slot A; fi
fi

# Sums against damage only: U-Boot unpacks a broken kernel without a word, and half of it would run.
echo "slskdn-boot: slot ${slot}, tries left A ${BOOT_A_LEFT} B ${BOOT_B_LEFT}"
setenv bootargs "@COMMAND_LINE@ slskdn.slot=${slot} slskdn.from=${devtype}"
setenv tree ${fdt_addr}
# The firmware lays an overlay over the tree for newer chips; ours names the tree that Linux is to get for them.
if test -n "${fdt_addr}" && fdt addr ${fdt_addr} && fdt get value other / slskdn-tree; then setenv fdtfile ${other}; fi
# Where the firmware said nothing: the first board of 2 GB and all of revision 1.1 (1, 2, 4, 8, 16 GB) have the newer chip.
for number in 0xB04170 0xA04171 0xB04171 0xC04171 0xD04171 0xE04171; do
    if test "${board_revision}" = ${number}; then setenv fdtfile broadcom/bcm2712-d-rpi-5-b.dtb; fi
done
env delete -f tree_crc32
setenv kernel_crc32 0
setenv initrd_crc32 0
load ${part} ${work_at} ${slot}/slot && env import -t ${work_at} ${filesize} kernel_crc32 initrd_crc32 tree_crc32
setenv tree_good 1
if test -n "${fdtfile}" && load ${part} ${tree_at} ${slot}/dtbs/${fdtfile}; then
    setenv tree ${tree_at}
    setenv from ${tree_at}
    setenv length ${filesize}
    run crc
    if test -n "${tree_crc32}" && itest.q ${check} -ne ${tree_crc32}; then setenv tree_good 0; fi
fi
if test ${tree_good} = 1 && load ${part} ${kernel_at} ${slot}/Image; then
    setenv from ${kernel_at}
    setenv length ${filesize}
    run crc
    if itest.q ${check} -eq ${kernel_crc32}; then
        if load ${part} ${initrd_at} ${slot}/initrd; then
            setenv from ${initrd_at}
            setenv length ${filesize}
            run crc
            if itest.q ${check} -eq ${initrd_crc32}; then
                booti ${kernel_at} ${initrd_at}:${length} ${tree}
            fi
        fi
    fi
fi
echo "slskdn-boot: slot ${slot} is damaged and does not start"
sleep 1
reset
