// A library that opens and has nothing.
extern "C" int no_function_of_cuda() { return 0; }
