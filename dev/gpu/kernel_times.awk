# The output of libkernel_times.so (start and duration in ns, name) -> a training step, kernel by kernel: a line each,
#   name <tab> launches per step <tab> us per step <tab> share of the step
# then "idle" (no kernel ran) and "step". A step ends with the kernel named `last`; the first `skip` are left out, and so
# is everything after the last of them. The input is sorted by start:
#   sort -n times.tsv | awk -v last=adamw_update_kernel -v skip=3 -f dev/gpu/kernel_times.awk
BEGIN { FS = OFS = "\t" }
{
  # The current step; it counts once its last kernel has been read.
  pending_n[$3]++
  pending_ns[$3] += $2
  end = $1 + $2
  if (end > covered) {  # copies may run in parallel with kernels
    pending_busy += end - ($1 > covered ? $1 : covered)
    covered = end
  }
  if ($3 != last) next
  if (++ends > skip && ends > 1) {
    for (name in pending_n) {
      launches[name] += pending_n[name]
      ns[name] += pending_ns[name]
    }
    span += end - previous_end
    busy += pending_busy
    ++steps
  }
  previous_end = end
  split("", pending_n)
  split("", pending_ns)
  pending_busy = 0
}
END {
  if (steps < 1) {
    print "error: " (ends + 0) " steps end with " last ", expected more than " skip " and at least 2" > "/dev/stderr"
    exit 1
  }
  sorter = "sort -t '\t' -k3,3nr -k1,1"
  for (name in launches) {
    printf "%s\t%.2f\t%.3f\t%.4f\n", name, launches[name] / steps, ns[name] / steps / 1e3, ns[name] / span | sorter
  }
  close(sorter)
  printf "idle\t\t%.3f\t%.4f\n", (span - busy) / steps / 1e3, (span - busy) / span
  printf "step\t\t%.3f\t1.0000\n", span / steps / 1e3
}
