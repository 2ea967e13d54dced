# cmake -DFROM=header -DTO=copy -P headers.cmake: a header of the core with the checker's atomics, mutexes and yields,
# and with less patience for late writers. Line by line the same otherwise, so that line numbers stay what they are.
file(READ "${FROM}" text)
string(REPLACE "std::atomic<" "::ovengine::model::atomic<" text "${text}")
string(REPLACE "std::mutex" "::ovengine::model::mutex" text "${text}")
string(REPLACE "std::this_thread::yield" "::ovengine::model::yield" text "${text}")
string(REPLACE "std::this_thread::sleep_for" "::ovengine::model::sleep_for" text "${text}")
# Plain members that one thread hands to another.
string(REPLACE "Batch* batch_ = nullptr" "::ovengine::model::plain<Batch*> batch_ = nullptr" text "${text}")
string(REPLACE "Batch* batch = nullptr" "::ovengine::model::plain<Batch*> batch = nullptr" text "${text}")
string(REPLACE "bool never_ran_ = false" "::ovengine::model::plain<bool> never_ran_ = false" text "${text}")
string(REPLACE "<std::uint32_t[]>" "<::ovengine::model::plain<std::uint32_t>[]>" text "${text}")
string(REPLACE "tries < 100" "tries < 1" text "${text}")
string(REPLACE "tries < 200" "tries < 3" text "${text}")
string(REPLACE "kLeaseGrace{10'000}" "kLeaseGrace{0}" text "${text}")
file(WRITE "${TO}" "${text}")
