// Command adminbench (make bench-admin) shows what administration costs a target that is under full load, and what the load
// costs administration.
//
// Two daemons with saved state run side by side: one whose target is kept busy by lunarctl bench, and one that idles as the control. In each
// round, in turn, 100 calls a second go to the idle daemon and then to the busy target, so that both halves of a round carry the
// same callers and the same load, and differ only in whom the calls reach. A third of the calls show, the rest change something and
// are saved. The report has the latencies of both, the loss of throughput between the halves, and how long a scrape of the
// metrics of a daemon with many targets takes.
//
// It promises nothing to programs outside this module.
package main
