-- Prints the results of wrk as one line: requests per second, the 99th percentile of the latency in
-- milliseconds, failed requests.
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\nresult %f %f %d\n',
    summary.requests / summary.duration * 1e6, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
