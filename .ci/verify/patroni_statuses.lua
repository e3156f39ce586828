-- For wrk: counts responses with status 200, a replica's 503, and all others. Prints the three
-- numbers at the end.

ok, refused, wrong = 0, 0, 0
local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function response(status, headers, body)
   if status == 200 and body:find('^{"users":%[') then
      ok = ok + 1
   -- A load balancer that finds no replica sends another content type.
   elseif status == 503 and headers["content-type"] == "application/problem+json" then
      refused = refused + 1
   else
      wrong = wrong + 1
   end
end

function done(summary)
   local errors = summary.errors
   local sums = {0, 0, errors.connect + errors.read + errors.write + errors.timeout}
   for _, thread in ipairs(threads) do
      for index, name in ipairs({"ok", "refused", "wrong"}) do
         sums[index] = sums[index] + thread:get(name)
      end
   end
   print(table.concat(sums, " "))
end
