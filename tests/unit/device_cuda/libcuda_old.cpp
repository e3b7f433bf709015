// A driver that lacks one function of those that came last.
extern "C" int cuInit(unsigned) { return 0; }
extern "C" int cuDriverGetVersion(int* version) { return *version = 11000, 0; }
