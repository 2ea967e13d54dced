// OVENGINE_FAILPOINT: names a place where threads race, so that tests can hold one up there. Nothing otherwise.
#pragma once

#ifndef OVENGINE_FAILPOINT
#define OVENGINE_FAILPOINT(name) static_cast<void>(0)
#endif
