// nccl.h includes this and we use nothing of it.
#pragma once
