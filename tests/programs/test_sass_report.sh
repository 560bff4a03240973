#!/usr/bin/env bash
# dev/gpu/sass_report.sh and its counts, on machine code written by hand: loads in flight, a pass, moves, divisions,
# local memory; a budget that is exceeded or does not fit; missing kernels and tools are reported.
. "$(dirname "$0")/lib.sh"
report="$SOURCE/dev/gpu/sass_report.sh"
command -v python3 >/dev/null || { echo "skipped: dev/gpu/sass_report.py needs python3"; exit 77; }
cd "$TMP"
expect_ok "$report" --help
expect_output '--cubin FILE'
expect_error 2 "'--speed' is not a flag" "$report" --speed
expect_error 2 'expected one pattern, got 2' "$report" a b

# Two loads are in flight, then one at a time; a main loop of eight instructions that runs six, with two HMMA and a
# move; a 32-bit division inside it, and one outside; an 8-byte store to shared memory; a spill.
cat >sass <<'SASS'
	.section	.text._Z10two_kernelIfLb1EEvPf,"ax",@progbits
.text._Z10two_kernelIfLb1EEvPf:
        /*0000*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0010*/                   LDG.E.64 R8, desc[UR4][R2.64+0x10] ;
        /*0020*/                   FADD R12, R5, R8 ;
        /*0030*/                   LDG.E.128 R4, desc[UR4][R2.64+0x20] ;
        /*0040*/                   FADD R12, R7, R12 ;
        /*0050*/                   I2F.RP R20, R21 ;
.L_x_1:
        /*0060*/                   IMAD.MOV.U32 R16, RZ, RZ, R17 ;
        /*0070*/              @!P1 BRA `(.L_x_2) ;
        /*0080*/                   I2F.RP R20, R21 ;
        /*0090*/                   FADD R20, R20, R20 ;
.L_x_2:
        /*00a0*/                   HMMA.16816.F32.BF16 R24, R4, R28, R24 ;
        /*00b0*/                   HMMA.16816.F32.BF16 R24, R4, R30, R24 ;
        /*00c0*/                   ISETP.NE.AND P0, PT, R16, RZ, PT ;
        /*00d0*/               @P0 BRA `(.L_x_1) ;
        /*00e0*/                   STS.64 [R3], R24 ;
        /*00f0*/                   STL [R1], R12 ;
        /*0100*/                   EXIT ;
.L_x_3:
        /*0110*/                   BRA `(.L_x_3);
SASS
mkdir tools
printf '#!/bin/bash\necho "Cuda compilation tools, release ${CUDA:-13.0}, V1"\n' >tools/nvcc
printf '#!/bin/bash\n[ "$1" = -c ] && cat "$2"\n' >tools/nvdisasm
chmod +x tools/*
export PATH=$TMP/tools:$PATH
# The script's own budget is for the real kernels: the counting is called directly.
count() { python3 "$SOURCE/dev/gpu/sass_report.py" "$@" <sass; }
budget() { printf '{"cuda": "13.0", "divisions": [%s], "kernels": [%s]}\n' "$1" "$2" >budget.json; }
budget '{"kernel": "two_kernel.*", "divisions": 1}' ''
expect_error 1 'two_kernel<float, true>: 1 accesses to local memory' count budget.json 13.0
[ "$(grep two_kernel out | head -n 1 | tr -s ' ')" = " 2 6 2 1 64 1 1 two_kernel<float, true>" ] || { cat out; die "the counts are wrong"; }
sed -i /STL/d sass
cp sass sass_without_wait
sed -i '/0050/s/I2F.*/ACQBULK ;/' sass  # after three loads
expect_error 1 'two_kernel<float, true>: 3 accesses or ends before the wait for earlier kernels' count budget.json 13.0
sed -i 's/LDG.E.*/FADD R12, R7, R12 ;/' sass
expect_ok count budget.json 13.0
mv sass_without_wait sass
expect_ok count budget.json 13.0
budget '' ''
expect_error 1 '1 integer divisions in its loops, 0 are allowed' count budget.json 13.0
for limit in '"loads_at_least": 3' '"pass_at_most": 5' '"hmma": 3' '"moves_per_hmma_at_most": 0.4' '"sts_bits_at_least": 128'; do
  budget '{"kernel": "two_kernel.*", "divisions": 1}' "{\"kernel\": \"two_kernel<float, .*>\", $limit}"
  expect_error 1 "two_kernel<float, true>: .*the budget says" count budget.json 13.0
done
# The schedule of another compiler need not match this one, but loads must.
budget '{"kernel": "two_kernel.*", "divisions": 1}' '{"kernel": "two_kernel.*", "pass_at_most": 5}'
expect_ok count budget.json 13.1
expect_output 'not checked: .* CUDA 13.0, this is 13.1'
budget '{"kernel": "two_kernel.*", "divisions": 1}' '{"kernel": "two_kernel.*", "loads_at_least": 3}'
expect_error 1 '2 loads under way' count budget.json 13.1
budget '{"kernel": "two_kernel.*", "divisions": 1}' '{"kernel": "gone_kernel", "loads_at_least": 1}'
expect_error 1 '"gone_kernel" is not a kernel here' count budget.json 13.0
# cuobjdump prints addresses where nvdisasm prints labels.
sed -e 's/`(.L_x_1)/0x60/; s/`(.L_x_2)/0xa0/; s/`(.L_x_3)/0x110/; /^.L_x/d; /section/d' -e 's/^.text.\(.*\):/\t\tFunction : \1/' sass >addresses
budget '{"kernel": "two_kernel.*", "divisions": 1}' '{"kernel": "two_kernel<float, true>", "pass_at_most": 6, "hmma": 2}'
mv addresses sass
expect_ok count budget.json 13.0

# The script: its budget does not fit this code, which is reported; missing tools are reported.
expect_error 1 'is not a kernel here' "$report" --cubin sass
expect_error 2 'no such file; dev/gpu/ptxas_report.sh --keep' "$report" --cubin none
code=0
CUDA_HOME=$TMP/none PATH=/usr/bin:/bin "$report" >out 2>&1 || code=$?
[ -x /usr/bin/nvcc ] || { [ $code = 77 ] && grep -q '^skipped: no nvcc' out || { cat out; die "without nvcc: exit $code"; }; }
printf '#!/bin/bash\nexit 3\n' >tools/nvdisasm
expect_error 1 'nvdisasm -c .*sass failed' "$report" --cubin sass
